"""Estimates of pictures as they clear, as GIFs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imagen_jax.parallel import distributed
from imagen_jax.pipeline.callbacks import Progress
from imagen_jax.pipeline.sheets import save_gif

_MOST_FRAMES = 32
_MOST_PIXELS = 256
"""Of a side."""


class Previews:
    """A callback that writes a GIF of each picture of each stage, once its batch is done.

    It holds the frames of a batch alone, at most 32 of each picture.
    """

    def __init__(self, directory: Path, names: Sequence[Sequence[str]]):
        """
        Args:
            names: of the pictures of every stage; a GIF is called as its picture is.
        """
        self._directory, self._names = directory, names
        self._heard: dict[tuple, dict[int, np.ndarray | None]] = {}

    def __call__(self, progress: Progress) -> None:
        """Takes a step's estimates; on several processes all hear them and the first one writes."""
        batch = (progress.stage, progress.pictures)
        frames = self._heard.setdefault(batch, {})
        every = -(-progress.num_steps // _MOST_FRAMES)
        is_shown = (progress.num_steps - 1 - progress.step) % every == 0
        frames[progress.step] = _small(progress.estimate) if is_shown else None
        if len(frames) == progress.num_steps:
            del self._heard[batch]
            shown = [frame for frame in frames.values() if frame is not None]
            distributed.leader_does(lambda: self._save(progress, shown))

    def _save(self, progress: Progress, frames: Sequence[np.ndarray]) -> None:
        for number, picture in enumerate(progress.pictures):
            path = self._directory / self._names[progress.stage][picture]
            save_gif([frame[number] for frame in frames], path.with_suffix(".gif"))


def _small(pictures: UInt8[np.ndarray, "batch height width 3"]) -> np.ndarray:
    """Pictures none of whose sides is longer than 256 pixels."""
    height, width = pictures.shape[1:3]
    factor = min(1.0, _MOST_PIXELS / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.stack([Image.fromarray(picture).resize(size) for picture in pictures])
