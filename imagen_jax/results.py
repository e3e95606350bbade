"""What sample.py leaves behind: pictures of every stage, a contact sheet, and a manifest."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.cascade import Painted, Step
from imagen_jax.files import absolute, write_text
from imagen_jax.pictures import grid, save_png
from imagen_jax.prompts import PromptEmbeddings
from imagen_jax.training.directory import package_versions

_COLUMNS = 6
"""Of the contact sheet, where each prompt has one picture."""


class Results:
    """The files of one run.

    Args:
        out: directory for them; it is made.
        prompts: in the order of the pictures.
        num_images: pictures of each prompt, which stand together.
    """

    def __init__(self, out: Path, prompts: Sequence[str], num_images: int) -> None:
        self._out, self._prompts, self._num_images = out, prompts, num_images
        self.stems = [
            file_stem(index, prompt, picture)
            for index, prompt in enumerate(prompts)
            for picture in range(num_images)
        ]
        self._files: list[list[str]] = [[] for _ in self.stems]
        self._stages: list[dict[str, Any]] = []

    def add(self, step: Step, text: PromptEmbeddings, painted: Painted) -> None:
        """Writes the pictures of a stage."""
        self._stages.append({
            "name": step.stage.config.name,
            "origin": absolute(step.stage.origin).name,
            "weights": step.stage.unet.weights,
            "unet_sha256": painted.unet_sha256,
            "text_encoder_sha256": text.encoder_sha256,
            "sampling": dataclasses.asdict(step.settings),
        })  # fmt: skip
        for stem, picture, names in zip(self.stems, painted.pictures, self._files, strict=True):
            names.append(f"{stem}-{step.side}.png")
            save_png(picture, self._out / names[-1])

    def finish(self, seed: int, last: np.ndarray) -> list[Path]:
        """Writes contact sheet and manifest; gives the files of the last stage's pictures."""
        self._save_contact_sheet(last)
        pictures = [
            {
                "prompt": self._prompts[i // self._num_images],
                "picture": i % self._num_images,
                "files": names,
            }
            for i, names in enumerate(self._files)
        ]
        manifest = {
            "seed": seed, "pictures": pictures, "stages": self._stages,
            "versions": package_versions(),
        }  # fmt: skip
        write_text(self._out / "manifest.json", json.dumps(manifest, indent=2))
        return [self._out / names[-1] for names in self._files]

    def _save_contact_sheet(self, pictures: np.ndarray) -> None:
        """One row per prompt, or rows of six prompts where each has one picture."""
        captions = [prompt for prompt in self._prompts for _ in range(self._num_images)]
        columns = self._num_images if self._num_images > 1 else _COLUMNS
        starts = range(0, len(captions), columns)
        sheet = grid(
            [list(pictures[i : i + columns]) for i in starts],
            captions=[captions[i : i + columns] for i in starts],
            cell=max(128, min(256, pictures.shape[1])),
        )
        save_png(sheet, self._out / "contact_sheet.png")


def file_stem(index: int, prompt: str, picture: int) -> str:
    """Number and words of the prompt and number of the picture, with nothing that a file system
    could take amiss."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40]
    return f"{index:02d}-{words}-{picture}"
