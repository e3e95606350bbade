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

from imagen_jax.config.choices import Crop, FeatureName, Recipe, Resizer
from imagen_jax.errors import UsageError

Picture = UInt8[np.ndarray, "height width 3"]
Resized = Float[np.ndarray, "side side 3"]
_LARGEST = 2**14
_SCALE_OVER_128 = np.float32(127.5 / 128)
"""Inception here makes x / 127.5 - 1 of what it gets."""
RESIZERS: tuple[Resizer, ...] = get_args(Resizer)
CROPS: tuple[Crop, ...] = get_args(Crop)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is read of a picture, and how it is resized.

    Attributes:
        crop: `whole` brings both sides to `side`, whatever their ratio; `centre` takes the square
            in the middle whose side is the shorter one.
        side: in pixels; 0 for what the network reads.
        over_128: whether Inception gets x / 128 - 1, as torch-fidelity's and clean-fid's do.
        first_side: to which larger pictures are brought before by `first_resizer`, as those that
            they are compared with were painted; 0 where they are not.
    """

    crop: Crop
    resizer: Resizer
    side: int = 0
    over_128: bool = False
    first_side: int = 0
    first_resizer: Resizer = "lanczos"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("resizer", self.resizer, RESIZERS),
            ("first_resizer", self.first_resizer, RESIZERS),
            ("crop", self.crop, CROPS),
        ):
            if value not in known:
                raise UsageError(f"The {name} is {value!r}; it must be one of {', '.join(known)}.")
        if type(self.over_128) is not bool:
            raise UsageError(f"The over_128 is {self.over_128!r}; it must be True or False.")
        for name, side in (("side", self.side), ("first_side", self.first_side)):
            if not (type(side) is int and 0 <= side <= _LARGEST):
                raise UsageError(f"The {name} is {side!r}; it must lie between 0 and {_LARGEST}.")

    @property
    def name(self) -> str:
        """The name as figures have it: "centre, lanczos to 256, bilinear, 299 pixels"."""
        first = f"{self.first_resizer} to {self.first_side}, " if self.first_side else ""
        last = ", over 128" if self.over_128 else ""
        return f"{self.crop}, {first}{self.resizer}, {self.side} pixels{last}"

    def __call__(self, picture: Picture) -> Resized:
        """The picture as the network reads it, float32, 0 to 255."""
        if self.crop == "centre":
            picture = _centre(picture)
        if self.first_side and min(picture.shape[:2]) > self.first_side:
            first = _resized(picture, self.first_side, self.first_resizer)
            picture = first.round().astype(np.uint8)
        read = _resized(picture, self.side, self.resizer)
        return read * _SCALE_OVER_128 if self.over_128 else read


def _resized(picture: Picture, side: int, resizer: Resizer) -> Resized:
    if picture.shape[:2] == (side, side):
        return picture.astype(np.float32)
    return _RESIZE[resizer](picture, side)


def _centre(picture: Picture) -> UInt8[np.ndarray, "side side 3"]:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _bilinear(picture: Picture, side: int) -> Resized:
    """Between the four nearest pixels, without a filter for smaller pictures.

    As pytorch-fid does it in its network: PyTorch's `interpolate` with align_corners=False.
    """
    return _weighted(picture, side, bilinear_weights)


def _tensorflow(picture: Picture, side: int) -> Resized:
    """Between the four nearest pixels as TensorFlow 1 has it: torch-fidelity's."""
    return _weighted(picture, side, tensorflow_weights)


def _weighted(
    picture: Picture, side: int, weights: Callable[[int, int], Float[np.ndarray, "_ _"]]
) -> Resized:
    down, across = (weights(size, side) for size in picture.shape[:2])
    rows = np.einsum("HI,IJC->HJC", down, picture.astype(np.float32), optimize=True)
    return np.einsum("WJ,HJC->HWC", across, rows, optimize=True)


def bilinear_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """How much each of `size` samples counts in each of `new_size`.

    Position i of the new ones lies at (i + 1/2) size / new_size - 1/2 of the old, or at the end
    where that is beyond it.
    """
    return _between(((np.arange(new_size) + 0.5) * size / new_size - 0.5).clip(0, size - 1), size)


def tensorflow_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """As `bilinear_weights`, but position i lies at i size / new_size: samples are no areas."""
    return _between(np.arange(new_size) * size / new_size, size)


def _between(
    place: Float[np.ndarray, " new_size"], size: int
) -> Float[np.ndarray, "new_size size"]:
    """How much each of `size` samples counts at each place among them."""
    first, new_size = np.floor(place).astype(int), len(place)
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
    "tensorflow": _tensorflow,
    "bicubic-float": _bicubic_float,
    "bicubic": _by_pillow(Image.Resampling.BICUBIC),
    "lanczos": _by_pillow(Image.Resampling.LANCZOS),
    "box": _by_pillow(Image.Resampling.BOX),
}

RECIPES: dict[Recipe, tuple[FeatureName, Reading]] = {
    "pytorch-fid": ("inception", Reading("whole", "bilinear")),
    "clean-fid": ("inception", Reading("whole", "bicubic-float", over_128=True)),
    "torch-fidelity": ("inception", Reading("whole", "tensorflow", over_128=True)),
    "imagen-fid30k": (
        "inception",
        Reading("centre", "bicubic-float", over_128=True, first_side=256),
    ),
    "cmmd": ("clip", Reading("centre", "bicubic")),
    "fd-dinov2": ("dinov2", Reading("whole", "bicubic")),
}
"""The paper of `imagen-fid30k` says 256 pixels and the whole validation set, and neither crop nor
resizer: these are those of GigaGAN's evaluation, the most complete one that is public."""
