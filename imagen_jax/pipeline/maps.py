"""Maps, sketches and other pictures that stages are shown, as a user gives them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imagen_jax.config.conditions import NO_LABEL, PictureCondition
from imagen_jax.config.data import Size
from imagen_jax.data import shown
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.editing import Edit
from imagen_jax.pipeline.given import called, fit, fit_mask, opened, read_picture
from imagen_jax.storage.files import to_path
from imagen_jax.storage.json_text import read_object

Map = UInt8[np.ndarray, "_ _ channels"]
"""[height, width, channels]: colours, grey, or numbers of classes."""
Colour = tuple[int, int, int]
Palette = Mapping[Colour, int]
"""Colour -> number of a class, or `NO_LABEL`."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


def read_palette(given: Any) -> Palette | None:
    """Which colour of a map is which class; None for a map of numbers.

    Args:
        given: a JSON file or a mapping: "#rrggbb" -> number, as in {"#87ceeb": 0, "#228b22": 1};
            255 is no class.

    Raises:
        UsageError: it cannot be read, is empty, or has another colour or number.
    """
    if given is None:
        return None
    named = f"The palette {given}" if isinstance(given, str | Path) else "The palette"
    entries = read_object(to_path(str(given))) if isinstance(given, str | Path) else given
    if not isinstance(entries, Mapping) or not entries:
        raise UsageError(f"{named} must map at least one colour such as '#87ceeb' to a number.")
    for colour, number in entries.items():
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not (whole and 0 <= number <= NO_LABEL and _COLOUR.fullmatch(str(colour))):
            raise UsageError(
                f"{named} has {json.dumps(str(colour))}: {number!r}; it must map colours such as "
                f"'#87ceeb' to whole numbers from 0 to {NO_LABEL}."
            )
    return {tuple(bytes.fromhex(colour[1:])): number for colour, number in entries.items()}


def read_map(condition: PictureCondition, given: Any, palette: Palette | None = None) -> Map:
    """What a stage is shown, as large as it is given.

    Args:
        condition: what it is to the stage.
        given: as `given.read_picture` takes it; of labels without a palette a picture of numbers:
            grey, or with a palette of its own, or uint8 [height, width].
        palette: what the colours of labels mean.

    Raises:
        UsageError: it cannot be read, or has what is no class.
    """
    if condition.kind == "mask":
        raise UsageError(
            f"{condition.name!r} is the known part of a picture; give that as image and mask."
        )
    named = f"picture {condition.name!r}"
    if condition.kind != "labels":
        image = read_picture(given, named)
        image = image if condition.kind == "colours" else shown.grey(condition, image)
    elif palette is None:
        image = shown.labels(condition, opened(given, named), called(given, named))
    else:
        image = _by_palette(condition, read_picture(given, named), palette, called(given, named))
    return _channels(image)


def fit_map(condition: PictureCondition, pixels: Map, size: Size) -> Map:
    """The same at the size (height, width) of a stage's pictures."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return _channels(shown.fit(condition, image, size))


def known_part(edit: Edit | None, size: Size) -> tuple[Map, bool]:
    """The picture that is edited with its mask as a fourth channel, and whether any of it stays."""
    mask = None if edit is None or edit.mask is None else fit_mask(edit.mask, size)
    if mask is None:
        return np.full((*size, 4), (0, 0, 0, 255), np.uint8), False
    unknown = np.where(mask, 255, 0).astype(np.uint8)
    return np.concatenate([fit(edit.picture, size), unknown[..., None]], axis=-1), True


def _channels(image: Image.Image) -> Map:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _by_palette(
    condition: PictureCondition, image: Image.Image, palette: Palette, named: str
) -> Image.Image:
    """The numbers of a map's colours."""
    pixels = np.asarray(image)
    codes = pixels.astype(np.int64) @ (65536, 256, 1)
    numbers = np.full(codes.shape, -1, np.int64)
    for (red, green, blue), number in palette.items():
        numbers[codes == 65536 * red + 256 * green + blue] = number
    for row, column in np.argwhere(numbers < 0)[:1]:
        colour = bytes(pixels[row, column].tolist()).hex()
        raise UsageError(
            f"{named} has the colour '#{colour}' in row {row}, column {column}; the palette has "
            "no class for it."
        )
    return shown.labels(condition, Image.fromarray(numbers.astype(np.uint8)), named)
