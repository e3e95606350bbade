"""From encoded bytes to the uint8 arrays of a training example."""

import io
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from imagen_jax.errors import UsageError

RGB = UInt8[np.ndarray, "height width 3"]
LowResRGB = UInt8[np.ndarray, "low_height low_width 3"]
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on bytes that are no whole picture."""


def decode(data: bytes, name: str, side: int) -> Image.Image:
    """The picture upright, in RGB, anything transparent on white.

    Args:
        data: a file of any format that Pillow reads.
        name: of the record, for the error.
        side: in pixels; a JPEG that is much larger is decoded at a fraction of its size.

    Raises:
        UsageError: the bytes do not decode.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.draft(None, (2 * side, 2 * side))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except _BROKEN as error:
        raise UsageError(f"The picture of {name} does not decode: {error}.") from error
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):  # 16 bits of grey, which convert() would clip.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def to_square(image: Image.Image, side: int) -> Image.Image:
    """The centre square of `image`, resized with antialiasing to `side` x `side`."""
    if image.size == (side, side):
        return image
    shorter = min(image.size)
    left, top = ((extent - shorter) / 2 for extent in image.size)
    box = (left, top, left + shorter, top + shorter)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=box)


def random_crop(image: Image.Image, side: int, rng: np.random.Generator) -> RGB:
    """A crop of `side` x `side` at a uniformly drawn place."""
    left, top = (int(rng.integers(extent - side + 1)) for extent in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def random_crop_pair(
    image: Image.Image, low_res: Image.Image, side: int, rng: np.random.Generator
) -> tuple[RGB, LowResRGB]:
    """The same random part of both: `side` pixels of `image`, on a pixel border of `low_res`."""
    upscale = image.width // low_res.width
    low_side = side // upscale
    left, top = (int(rng.integers(extent - low_side + 1)) for extent in low_res.size)
    box = (left, top, left + low_side, top + low_side)
    crop = image.crop(tuple(upscale * edge for edge in box))
    return np.asarray(crop), np.asarray(low_res.crop(box))
