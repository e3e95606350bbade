"""Sheets of pictures, and PNG files."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imagen_jax.files import AnyPath, replacing

_GAP = 4
_TEXT_HEIGHT = 18


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
    font = ImageFont.load_default(13)
    text = " ".join(text.split())[:width]  # No letter is narrower than a pixel.
    while text and font.getlength(text) > width:
        text = text[:-1]
    ImageDraw.Draw(sheet).text(corner, text, fill="black", font=font)


def save_png(image: Image.Image | np.ndarray, path: AnyPath) -> None:
    """Writes a PNG whole or not at all; makes its directory.

    Raises:
        UsageError: the file cannot be written, and why.
    """
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    with replacing(path) as temporary, temporary.open("wb") as file:
        image.save(file, format="PNG")
