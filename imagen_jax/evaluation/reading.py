"""How a picture comes to the size that a feature network reads.

The resizer alone moves FID by 6 and more (Parmar et al. 2022, On Aliased Resizing), so crop,
resizer and size are part of every figure's name.
"""

import dataclasses
from collections.abc import Callable
from typing import get_args

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from imagen_jax.config.choices import Crop, FeatureName, Resizer
from imagen_jax.errors import UsageError

Picture = UInt8[np.ndarray, "height width 3"]
Resized = Float[np.ndarray, "side side 3"]
RESIZERS: tuple[Resizer, ...] = get_args(Resizer)
CROPS: tuple[Crop, ...] = get_args(Crop)
USUAL: dict[FeatureName, tuple[Crop, Resizer]] = {
    "inception": ("whole", "bilinear"),
    "clip": ("centre", "bicubic"),
    "dinov2": ("whole", "bicubic"),
}
"""As pytorch-fid, the code of CMMD and dgm-eval take pictures."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is read of a picture, and how it is resized.

    Attributes:
        crop: `whole` brings both sides to `side`, whatever their ratio; `centre` takes the square
            in the middle whose side is the shorter one.
        side: in pixels.
    """

    crop: Crop
    resizer: Resizer
    side: int

    def __post_init__(self) -> None:
        for name, value, known in (
            ("resizer", self.resizer, RESIZERS), ("crop", self.crop, CROPS)
        ):  # fmt: skip
            if value not in known:
                raise UsageError(f"The {name} is {value!r}; it must be one of {', '.join(known)}.")

    @property
    def name(self) -> str:
        """As figures have it: "whole, bilinear, 299 pixels"."""
        return f"{self.crop}, {self.resizer}, {self.side} pixels"

    def __call__(self, picture: Picture) -> Resized:
        """The picture as the network reads it, float32, 0 to 255."""
        if self.crop == "centre":
            picture = _centre(picture)
        if picture.shape[:2] == (self.side, self.side):
            return picture.astype(np.float32)
        return _RESIZE[self.resizer](picture, self.side)


def _centre(picture: Picture) -> UInt8[np.ndarray, "side side 3"]:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _bilinear(picture: Picture, side: int) -> Resized:
    """Between the four nearest pixels, without a filter for smaller pictures.

    As pytorch-fid does it in its network: PyTorch's `interpolate` with align_corners=False.
    """
    down, across = (bilinear_weights(size, side) for size in picture.shape[:2])
    rows = np.einsum("HI,IJC->HJC", down, picture.astype(np.float32), optimize=True)
    return np.einsum("WJ,HJC->HWC", across, rows, optimize=True)


def bilinear_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """How much each of `size` samples counts in each of `new_size`.

    Position i of the new ones lies at (i + 1/2) size / new_size - 1/2 of the old, or at the end
    where that is beyond it.
    """
    place = ((np.arange(new_size) + 0.5) * size / new_size - 0.5).clip(0, size - 1)
    first = np.floor(place).astype(int)
    share, rows = place - first, np.arange(new_size)
    weights = np.zeros((new_size, size), np.float32)
    weights[rows, first] += 1 - share
    weights[rows, (first + 1).clip(max=size - 1)] += share
    return weights


def _bicubic_float(picture: Picture, side: int) -> Resized:
    """Pillow's bicubic filter on each channel as floats, nothing rounded: clean-fid's."""
    channels = [
        Image.fromarray(channel).resize((side, side), Image.Resampling.BICUBIC)
        for channel in np.moveaxis(picture.astype(np.float32), 2, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2).clip(0, 255)


def _by_pillow(filter: Image.Resampling) -> Callable[[Picture, int], Resized]:
    """Rounded to whole numbers, as a picture file is."""

    def resize(picture: Picture, side: int) -> Resized:
        return np.asarray(Image.fromarray(picture).resize((side, side), filter), np.float32)

    return resize


_RESIZE: dict[Resizer, Callable[[Picture, int], Resized]] = {
    "bilinear": _bilinear,
    "bicubic-float": _bicubic_float,
    "bicubic": _by_pillow(Image.Resampling.BICUBIC),
    "lanczos": _by_pillow(Image.Resampling.LANCZOS),
    "box": _by_pillow(Image.Resampling.BOX),
}
