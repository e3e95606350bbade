"""Pictures that a stage is shown beside the one that it paints: sketches, maps, masks."""

from itertools import repeat
from typing import Any

import numpy as np
from PIL import Image

from imagen_jax.config.conditions import NO_LABEL, PictureCondition
from imagen_jax.config.data import Size
from imagen_jax.data import transforms
from imagen_jax.data.records import BrokenRecord, Record

_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Modes in which a pixel is one number."""
_INEXACT = {
    "JPEG": "a lossy format",
    "MPO": "a lossy format",
    "TIFF of JPEG": "a lossy format",
    "GIF": "a format whose numbers programs change",
}
"""An MPO is several JPEGs in one file. Programs that write a GIF number its colours anew without
those that no pixel has."""
_JPEG_IN_TIFF = ("jpeg", "tiff_jpeg")
"""What Pillow calls the compression of such a TIFF."""
_SCALED = ("L;2", "L;4", "L;I", "1;I")
"""How Pillow names pixels of a file that it changes in reading: greys of 2 or 4 bits are stretched
to 255, and those where 0 is white are turned round."""
_BITS = {"1": 1, "L": 8}
"""Of a pixel of which Pillow says that it is stored so."""
_WHITE = 128
"""From here on a mask is white."""


def beside(
    condition: PictureCondition, record: Record, image: Image.Image, side: int
) -> Image.Image:
    """The picture of a record that a stage is shown, as `read` gives it.

    Args:
        image: the record's own, decoded.
        side: as `read` takes it.

    Raises:
        BrokenRecord: there is none, it is broken, or of another ratio than the record's own.
    """
    if condition.name not in record.pictures:
        raise BrokenRecord(record.name, f"no {condition.name}")
    found = read(condition, record.pictures[condition.name], record.name, side)
    if not same_ratio(found.size, image.size):
        sizes = "{1}x{0} beside {3}x{2}".format(*found.size, *image.size)
        raise BrokenRecord(record.name, f"{condition.name} of another ratio", sizes)
    return found


def read(condition: PictureCondition, data: bytes, name: str, side: int | None) -> Image.Image:
    """A picture as a record has it, upright: RGB, grey, the numbers of classes, or a mask of 0 and
    255.

    Args:
        condition: what it is to the stage.
        data: a file; of labels one that holds numbers, be they shown as greys or by a palette.
        name: of the record, for the error.
        side: as `transforms.decode` takes it.

    Raises:
        BrokenRecord: it does not decode, is no map of classes that is exact, or has a number that
            is no class.
    """
    if condition.kind == "labels":
        return labels(condition, transforms.opened(data, name), name)
    image = transforms.decode(data, name, side)
    return image if condition.kind == "colours" else grey(condition, image)


def grey(condition: PictureCondition, image: Image.Image) -> Image.Image:
    """An RGB picture in grey, and of a mask black and white."""
    image = image.convert("L")
    return image.point(lambda x: 255 * (x >= _WHITE)) if condition.kind == "mask" else image


def labels(condition: PictureCondition, image: Image.Image, name: str) -> Image.Image:
    """A map of classes as numbers of 8 bits; `NO_LABEL` stands for none.

    Args:
        image: as Pillow has opened it; colours of a palette do not matter.

    Raises:
        BrokenRecord: it does not decode, comes from a file that does not keep the numbers, has
            none, or one that is no class.
    """
    if kind := _INEXACT.get(_format(image)):
        raise BrokenRecord(name, f"{condition.name} in {kind}", _format(image))
    if any(map(_changes, getattr(image, "tile", ()), repeat(image))):
        problem = f"{condition.name} in greys that are scaled or turned round in reading"
        raise BrokenRecord(name, problem, "8 or 16 bits, 0 black, or a palette keep numbers")
    if image.mode not in _NUMBERS:
        raise BrokenRecord(name, f"{condition.name} without numbers", f"mode {image.mode}")
    numbers = np.asarray(transforms.upright(image, name))
    wrong = (numbers >= condition.classes) & (numbers != NO_LABEL) | (numbers < 0)
    if wrong.any():
        known = f"there are 0 to {condition.classes - 1}, and {NO_LABEL} for none"
        raise BrokenRecord(
            name,
            "class out of range",
            f"{condition.name} has {numbers[wrong][0]}; {known}",
        )
    return Image.fromarray(numbers.astype(np.uint8))


def _format(image: Image.Image) -> str:
    """Of the file's pixels; empty for a picture without a file."""
    if image.format == "TIFF" and image.info.get("compression") in _JPEG_IN_TIFF:
        return "TIFF of JPEG"
    return image.format or ""


def _changes(tile: Any, image: Image.Image) -> bool:
    """Whether Pillow gives other numbers than a part of the file holds."""
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    stored = args[0] if args and isinstance(args[0], str) else ""
    if image.format == "BMP" and stored in _BITS:  # Greys of a palette are of any depth there.
        return args[1] != (image.width * _BITS[stored] + 31) // 32 * 4
    return stored.startswith(_SCALED)


def same_ratio(size: Size, other: Size) -> bool:
    """Whether two sizes have the same ratio, to a pixel of the smaller one."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)


def fit(condition: PictureCondition, image: Image.Image, size: Size) -> Image.Image:
    """The largest centre part with the ratio of `size`: numbers by the nearest, all else by area.

    A pixel of a mask is white if any part of it is.
    """
    if condition.kind == "labels":
        return transforms.cover(image, size, Image.Resampling.NEAREST)
    fitted = transforms.cover(image, size, Image.Resampling.BOX)
    return fitted.point(lambda x: 255 * (x > 0)) if condition.kind == "mask" else fitted


def masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A picture with its mask, as large, for a fourth channel."""
    return Image.merge("RGBA", (*image.split(), mask))
