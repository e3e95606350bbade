"""Count the parameters of every config of the paper's size and write docs/parameters.md.

    python tools/parameter_table.py

Nothing is allocated: shapes are traced.
"""

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
DOCS = ROOT / "docs" / "parameters.md"
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

TEXT = """# Parameters

`python tools/parameter_table.py` writes this page, and `pytest -m ""
tests/config/test_parameters.py` checks it. A U-Net's count includes its layers on the text, which
grow with the encoder's width, so the 300M base has several sizes.

{table}

Appendix F.2 (600M) and F.3 (400M) of the paper list the same blocks: 128, 256, 512, 1024 channels
with 2, 4, 8, 8 residual blocks. They differ in self-attention alone, which is not worth 200M
parameters, so the two listings cannot both be right. `sr_256` and `sr_1024` follow the letter:
attention once in a block, after its last residual block, and "hidden = 2 x channels" as the width
of queries, keys and values. `_attention_per_block` attends after every 1024-channel residual
block. `_fifth_block` adds a second 1024-channel block, as NeMo's Imagen did. No reading gives both
of the paper's figures.

The paper does not state the ablations' widths. 144, 208 and 320 channels come nearest to 300M,
500M and 1B with T5-XXL.

## DeepFloyd IF

`sample.py` holds a U-Net's kernels and the text encoder in bfloat16, and the rest in float32. The
configs are in `configs/deepfloyd_if`.

{deepfloyd_if}
"""


def count(shapes: object) -> int:
    """The number of parameters of these shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def counts(name: str) -> tuple[int, int]:
    """Parameters of a config's U-Net and of its text encoder."""
    config = load_config(ROOT / "configs" / f"{name}.py")
    return count(abstract_params(config)), encoder_count(config.text_encoder.network)


def encoder_count(sizes: T5Config | CLIPTextConfig) -> int:
    return count(abstract_frozen_encoder(sizes))


def page() -> str:
    lines = ["| config | U-Net | the paper | text encoder |", "|---|---|---|---|"]
    for name, paper in CONFIGS.items():
        unet, encoder = counts(name)
        lines.append(f"| `{name}` | {unet:,} | {paper} | {encoder:,} |")
    return TEXT.format(table="\n".join(lines), deepfloyd_if="\n".join(deepfloyd_if()))


def deepfloyd_if() -> list[str]:
    """The second table."""
    lines = ["| | parameters | the model card | bytes in memory |", "|---|---|---|---|"]
    for name, (title, card) in DEEPFLOYD_IF.items():
        config = load_config(ROOT / "configs" / "deepfloyd_if" / f"{name}.py")
        lines.append(f"| {title} | {_size(abstract_sampled_unet(config), card)} |")
    encoder = abstract_frozen_encoder(config.text_encoder.network)
    return [*lines, f"| T5-XXL, the encoder alone | {_size(encoder, '')} |"]


def _size(params: Params, card: str) -> str:
    leaves = jax.tree.leaves(params)
    held = sum(x.size * x.dtype.itemsize for x in leaves)
    return f"{sum(x.size for x in leaves):,} | {card} | {held:,}"


if __name__ == "__main__":
    write_text(DOCS, page())
    print(DOCS)
