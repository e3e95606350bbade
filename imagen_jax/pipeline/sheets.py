"""Sheets of pictures, and PNG files."""

import functools
import importlib.util
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from imagen_jax.storage.files import AnyPath, replacing

_GAP = 4
_TEXT_HEIGHT = 18
_FONT_SIZE = 12
_FRAME, _LAST_FRAME = 100, 1500
"""Milliseconds that a GIF shows its frames."""


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    captions: Sequence[Sequence[str]] | None = None,
    cell: int | None = None,
) -> Image.Image:
    """Rows of uint8 (H, W, 3) pictures on a white sheet, a caption below each if given.

    `cell` is the height of every picture on the sheet; None takes the largest picture's.
    """
    cell = cell or max(picture.shape[0] for row in rows for picture in row)
    line = _TEXT_HEIGHT if captions else 0
    widths = [[round(cell * p.shape[1] / p.shape[0]) for p in row] for row in rows]
    step_x, step_y = max(map(max, widths)) + _GAP, cell + line + _GAP
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * step_x + _GAP, len(rows) * step_y + _GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            corner = (x * step_x + _GAP, y * step_y + _GAP)
            # Enlarged pixels stay visible; reduced pictures stay smooth.
            enlarged = cell >= picture.shape[0]
            method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
            image = Image.fromarray(picture).resize((widths[y][x], cell), method)
            sheet.paste(image, corner)
            if captions:
                _write(sheet, (corner[0], corner[1] + cell), captions[y][x], step_x - _GAP)
    return sheet


def _write(sheet: Image.Image, corner: tuple[int, int], text: str, width: int) -> None:
    """A line of text, cut to `width` pixels."""
    font = ImageFont.truetype(_font(), _FONT_SIZE)
    text = " ".join(text.split())[:width]  # No letter is narrower than a pixel.
    while text and font.getlength(text) > width:
        text = text[:-1]
    ImageDraw.Draw(sheet).text(corner, text, fill="black", font=font)


def legible(text: str) -> bool:
    """Whether a caption on a sheet has a shape for each of its letters."""
    if text.isascii() and text.isprintable():
        return True
    drawn = (c for c in text if not c.isspace() and unicodedata.category(c) != "Cf")
    return all(ord(character) in _letters() for character in drawn)


@functools.cache
def _letters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font())).get_charmap())


@functools.cache
def _font() -> Path:
    """Latin, Greek, Cyrillic, Arabic, Hebrew and more, but neither Chinese nor pictographs."""
    # To import matplotlib takes half a second.
    package = Path(importlib.util.find_spec("matplotlib").origin).parent
    return package / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


def save_png(
    image: Image.Image | np.ndarray, path: AnyPath, texts: Mapping[str, str] | None = None
) -> None:
    """Writes a PNG whole or not at all; makes its directory.

    Args:
        texts: keyword -> ASCII text, which the file holds beside the picture.

    Raises:
        UsageError: the file cannot be written, and why.
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    info = PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    with replacing(path) as temporary, temporary.open("wb") as file:
        image.save(file, format="PNG", pnginfo=info)


def save_gif(frames: Sequence[np.ndarray], path: AnyPath) -> None:
    """Writes uint8 (H, W, 3) pictures of one size as a GIF that shows the last one longer.

    Raises:
        UsageError: the file cannot be written, and why.
    """
    first, *others = map(Image.fromarray, frames)
    durations = [*[_FRAME] * len(others), _LAST_FRAME]
    with replacing(path) as temporary, temporary.open("wb") as file:
        first.save(
            file, format="GIF", save_all=True, append_images=others, duration=durations, loop=0
        )
