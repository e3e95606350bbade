"""Encoded bytes become the uint8 arrays of a training example."""

import io
import warnings
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from imagen_jax.config.data import Size
from imagen_jax.data.colours import to_srgb_on_white
from imagen_jax.data.records import BrokenRecord

Pixels = UInt8[np.ndarray, "_ _ channels"]
MAX_PIXELS = 5 * 10**7
"""A picture that decodes to more is left out: it may be meant to fill the memory."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""No other decoder of Pillow's gets to see the bytes."""
_TRUNCATED = ("truncated", "not enough image data", "unexpected end", "broken data stream")
"""What Pillow says of pictures that end early; it has no class for it."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the picture upright."""
_ON_ITS_SIDE = (5, 6, 7, 8)
"""Orientations in which height and width are those of the upright picture changed over."""
# Pillow warns of large pictures and damaged EXIF data, without saying which pictures'.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, name: str, side: int | None) -> Image.Image:
    """The picture upright, in sRGB, anything transparent on white; of several frames the first.

    Args:
        data: a file of any of `FORMATS`.
        name: of the record, for the error.
        side: in pixels; a JPEG both sides of which are much larger is decoded at a fraction of
            its size. None decodes all of it.

    Raises:
        BrokenRecord: the bytes do not decode, or to too much.
    """
    return plain(opened(data, name), name, side)


def plain(image: Image.Image, name: str, side: int | None = None) -> Image.Image:
    """The same of what Pillow has opened."""
    image = upright(image, name, side)
    try:
        return to_srgb_on_white(image)
    except Exception as error:  # Pillow's plugins raise what they happen to come upon.
        raise _broken(name, error) from error


def upright(image: Image.Image, name: str, side: int | None = None) -> Image.Image:
    """What Pillow has opened, decoded and turned as its EXIF data say; colours stay as they are.

    Raises:
        BrokenRecord: it does not decode, or to too much.
    """
    try:
        if side is not None:
            image.draft(None, (2 * side, 2 * side))
        if image.width * image.height > MAX_PIXELS:
            raise BrokenRecord(name, "picture too large", f"{image.width}x{image.height}")
        image.load()
        return _upright(image)
    except BrokenRecord:
        raise
    except Exception as error:  # As in `plain`.
        raise _broken(name, error) from error


def size_of(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) of the picture when it is upright, as the header says.

    Raises:
        BrokenRecord: it has no header that can be read.
    """
    image = opened(data, name)
    turned = image.format != "TIFF" and _orientation(image) in _ON_ITS_SIDE  # Pillow turns TIFFs.
    return image.size[::-1] if turned else image.size


def opened(data: bytes, name: str) -> Image.Image:
    """What Pillow opens, not decoded yet.

    Raises:
        BrokenRecord: it is of no format that is known.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BrokenRecord(name, "picture too large", str(error)) from error
    except Exception as error:  # As in `decode`.
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> BrokenRecord:
    if isinstance(error, UnidentifiedImageError):
        return BrokenRecord(name, "picture undecodable", "of no format that is known")
    unsaid = "it contradicts itself" if isinstance(error, AssertionError) else type(error).__name__
    said = str(error) or unsaid
    truncated = isinstance(error, EOFError) or any(what in said.lower() for what in _TRUNCATED)
    reason = "picture truncated" if truncated else "picture undecodable"
    return BrokenRecord(name, reason, said.partition("\n")[0])


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _orientation(image: Image.Image) -> int | None:
    """What EXIF data say; of a PNG those that were read, which asking itself would decode first."""
    try:
        return Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # Of EXIF data that is damaged, and says nothing.
        return None


def cover(
    image: Image.Image, size: Size, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """The largest centre part of `image` with the ratio of `size`, resized with antialiasing."""
    height, width = size
    if image.size == (width, height):
        return image
    left = max(image.width - image.height * width / height, 0) / 2
    top = max(image.height - image.width * height / width, 0) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), resample, box=box)


def random_crop(
    pictures: Mapping[str, Image.Image], size: Size, rng: np.random.Generator
) -> dict[str, Pixels]:
    """The same random part of all pictures, at a uniformly drawn place.

    Args:
        pictures: all show the same, the largest at the size in whose pixels `size` counts; the
            sides of the others divide its sides.
        size: (height, width); it falls on a pixel's border in all of them.

    Returns:
        uint8 arrays (height, width, channels).
    """
    by_width = sorted(pictures.values(), key=lambda picture: picture.width)
    small, unit = by_width[0], by_width[-1].width // by_width[0].width
    height, width = (side // unit for side in size)
    left = int(rng.integers(small.width - width + 1))
    top = int(rng.integers(small.height - height + 1))
    box = (left, top, left + width, top + height)

    def crop(picture: Image.Image) -> Pixels:
        scale = picture.width // small.width
        pixels = np.asarray(picture.crop(tuple(scale * edge for edge in box)))
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    return {name: crop(picture) for name, picture in pictures.items()}
