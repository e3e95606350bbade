"""A tiny stage with a text encoder, captioned pictures, and their embeddings."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import tiny
from PIL import Image
from scripts import Result, call, verbs

from imagen_jax.config import StageConfig
from imagen_jax.networks import build_networks
from imagen_jax.text.tokenizer import load_tokenizer
from imagen_jax.weights.stage_file import save_stage_file

CAPTIONS = [
    ["a red apple", "an apple"],
    ["a red apple", "a green dragon, in noto style"],
    ["a slice of pizza and a very long sentence that no encoder of eight tokens can hold"],
    ["Ünïcödé \N{SLICE OF PIZZA}", "a  red apple"],
    ["pizza", "pizza"],
]
DISTINCT = {caption for captions in CAPTIONS for caption in captions}


@dataclasses.dataclass(frozen=True)
class Set:
    """An exported stage with its encoder, a folder of pictures, and a stage to be trained on it."""

    stage: Path
    folder: Path
    config: StageConfig

    @functools.cached_property
    def encoder(self):
        return tiny.random_params(tiny.stage(), seed=3)["text_encoder"]

    def embed(self, out: Path, *flags: object, dataset: str = "") -> Result:
        dataset = dataset or f"folder:{self.folder}"
        return call(verbs, "embed", dataset, out, "--stage", self.stage, *flags)

    def live(self, caption: str) -> np.ndarray:
        """The embedding of one caption alone, float32 [tokens, width], without padding."""
        tokenizer = load_tokenizer("captions")
        token_ids, mask = tokenizer([caption], tiny.LENGTH) if caption else tokenizer.empty(8)
        count = mask.sum()
        return self.embed_tokens(token_ids[:, :count], mask[:, :count])[0]

    def embed_tokens(self, token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.asarray(self._embed({"text_encoder": self.encoder}, token_ids, mask))

    @functools.cached_property
    def _embed(self):
        return jax.jit(build_networks(self.config).embed)


def make_set(directory: Path, captions: list[list[str]] = CAPTIONS) -> Set:
    folder, stage = directory / "data", directory / "base.safetensors"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, texts in enumerate(captions):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text("\n".join(texts), encoding="utf-8")
    config = tiny.super_resolution(
        text_encoder={"train": False, "source": str(stage)}, data={"source": f"folder:{folder}"}
    )
    made = Set(stage, folder, config)
    params = {**tiny.random_params(tiny.stage()), "text_encoder": made.encoder}
    save_stage_file(stage, tiny.stage(), params, "float32")
    return made
