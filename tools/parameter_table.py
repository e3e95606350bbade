"""Counts the parameters of every config of the paper's size and writes docs/parameters.json.

    python tools/parameter_table.py

The site shows the file in docs/parameters.md. Nothing is allocated: shapes are traced.
"""

import json
import math
from pathlib import Path

import jax

from imagen_jax.config import T5Config
from imagen_jax.config.encoders import CLIPTextConfig
from imagen_jax.networks import (
    Params,
    abstract_frozen_encoder,
    abstract_params,
    abstract_sampled_unet,
)
from imagen_jax.storage.files import write_text
from imagen_jax.stored.stages import load_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "parameters.json"
CONFIGS = {
    "base_64": "2B",
    "base_64_1b": "1B",
    "base_64_500m": "500M",
    "base_64_300m": "300M",
    "base_64_300m_t5_xl": "300M",
    "base_64_300m_t5_large": "300M",
    "base_64_300m_t5_base": "300M",
    "base_64_300m_t5_small": "300M",
    "base_64_1b_clip_l14": "1B",
    "base_64_300m_clip_l14": "300M",
    "sr_256": "600M",
    "sr_256_attention_per_block": "600M",
    "sr_256_fifth_block": "600M",
    "sr_1024": "400M",
    "sr_1024_attention_per_block": "400M",
}
"""Config -> what the paper calls its U-Net."""
DEEPFLOYD_IF = {
    "i_m": ("IF-I-M", "400M"), "i_l": ("IF-I-L", "900M"), "i_xl": ("IF-I-XL", "4.3B"),
    "ii_m": ("IF-II-M", "450M"), "ii_l": ("IF-II-L", "1.2B"),
}  # fmt: skip
"""Config in configs/deepfloyd_if -> its name, and the size that its model card gives."""


def count(shapes: object) -> int:
    """The number of parameters of these shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def counts(name: str) -> tuple[int, int]:
    """Parameters of a config's U-Net and of its text encoder."""
    config = load_config(ROOT / "configs" / f"{name}.py")
    return count(abstract_params(config)), encoder_count(config.text_encoder.network)


def encoder_count(sizes: T5Config | CLIPTextConfig) -> int:
    return count(abstract_frozen_encoder(sizes))


def stages() -> list[dict]:
    """The first table of docs/parameters.md: a row for each config, heading -> cell."""
    rows = []
    for name, paper in CONFIGS.items():
        unet, encoder = counts(name)
        rows.append({"config": name, "U-Net": unet, "the paper": paper, "text encoder": encoder})
    return rows


def deepfloyd_if() -> list[dict]:
    """The second table."""
    rows = []
    for name, (title, card) in DEEPFLOYD_IF.items():
        config = load_config(ROOT / "configs" / "deepfloyd_if" / f"{name}.py")
        rows.append(_sizes(title, abstract_sampled_unet(config), card))
    encoder = abstract_frozen_encoder(config.text_encoder.network)
    return [*rows, _sizes("T5-XXL, the encoder alone", encoder, "")]


def _sizes(title: str, params: Params, card: str) -> dict:
    leaves = jax.tree.leaves(params)
    return {
        "network": title,
        "parameters": sum(x.size for x in leaves),
        "the model card": card,
        "bytes in memory": sum(x.size * x.dtype.itemsize for x in leaves),
    }


if __name__ == "__main__":
    tables = {"stages": stages(), "deepfloyd_if": deepfloyd_if()}
    write_text(DOCS, json.dumps(tables, indent=2) + "\n")
    print(DOCS)
