"""Pictures, masks and noise that a user gives, as files, PIL images or arrays."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from imagen_jax.config.data import Size
from imagen_jax.data import transforms
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import to_path
from imagen_jax.storage.npy import read_npy

Mask = Bool[np.ndarray, "_ _"]
"""True where a picture is repainted."""
Noise = Float32[np.ndarray, "_ height width 3"]
"""z to begin with: one for all pictures, or one for each."""
_CHANNELS = (1, 3, 4)


def read_picture(given: Any, what: str = "picture") -> Image.Image:
    """The picture upright, in sRGB, anything transparent on white.

    Args:
        given: a path; a PIL image; or uint8 [height, width] or [height, width, 1, 3 or 4].
        what: names it in errors.

    Raises:
        UsageError: it is none of these, or cannot be decoded.
    """
    return transforms.plain(opened(given, what), called(given, what))


def opened(given: Any, what: str) -> Image.Image:
    """The same as Pillow has it, neither turned nor in other colours yet."""
    named = called(given, what)
    if isinstance(given, str | Path):
        return transforms.opened(_read(given, named), named)
    return given if isinstance(given, Image.Image) else _of_array(given, named)


def called(given: Any, what: str) -> str:
    """What errors call it."""
    return f"The {what} {given}" if isinstance(given, str | Path) else f"The {what}"


def read_mask(given: Any, size: Size) -> Mask:
    """Where a picture of this size is repainted: where the mask is white, or where it is True.

    Args:
        given: as `read_picture` takes it, or bool [height, width].
        size: (height, width) of the picture.

    Raises:
        UsageError: the mask is of another size, has no white, or is not black and white alone.
    """
    if isinstance(given, np.ndarray) and given.dtype == bool and given.ndim == 2:
        given = given.astype(np.uint8) * 255
    pixels = np.asarray(read_picture(given, "mask"))
    if pixels.shape[:2] != tuple(size):
        raise UsageError(
            f"The mask has {pixels.shape[0]}x{pixels.shape[1]} pixels and the picture "
            f"{size[0]}x{size[1]}; they must have the same height and width."
        )
    white = (pixels == 255).all(-1)
    if not white.any() and not pixels.any():
        raise UsageError("The mask has no white pixel; white is repainted, and black stays.")
    for row, column in np.argwhere(~white & pixels.any(-1))[:1]:
        raise UsageError(
            f"The mask has the colour {tuple(pixels[row, column].tolist())} in row {row}, column "
            f"{column}; it must be white, which is repainted, and black, which stays, and nothing "
            "else."
        )
    return white


def read_noise(given: Any, size: Size, pictures: int) -> Noise | None:
    """The noise that the first stage begins with in place of that of its seed; None without.

    Args:
        given: a .npy file or an array, float [height, width, 3], or one for each picture.
        size: (height, width) of what the first stage paints.
        pictures: how many there are.

    Raises:
        UsageError: it cannot be read, is of another shape, or is not finite.
    """
    if given is None:
        return None
    noise, named = _listed(given, pictures)
    if noise.shape[1:] != (*size, 3):
        raise UsageError(
            f"{named} has the shape {noise.shape[1:]} for each picture; it must be {(*size, 3)}."
        )
    if not np.issubdtype(noise.dtype, np.floating) or not np.isfinite(noise).all():
        raise UsageError(f"{named} is {noise.dtype}; it must be finite numbers of a floating type.")
    return noise.astype(np.float32)


def listed_noise(given: Any, pictures: int) -> np.ndarray | None:
    """Noise of one picture or of each, as a call with a part of them takes it.

    Raises:
        UsageError: it cannot be read, or is of another number of pictures.
    """
    return None if given is None else _listed(given, pictures)[0]


def _listed(given: Any, pictures: int) -> tuple[np.ndarray, str]:
    """Noise of one picture or of each, of whatever size, and its name for errors."""
    named = f"The noise {given}" if isinstance(given, str | Path) else "The noise"
    noise = _array_of(given, named)
    listed = noise[None] if noise.ndim == 3 else noise
    if listed.ndim != 4 or len(listed) not in (1, pictures):
        raise UsageError(
            f"{named} has the shape {noise.shape}; it must be (height, width, 3), or "
            f"({pictures}, height, width, 3) with one for each picture."
        )
    return listed, named


def digest_of(array: np.ndarray) -> dict[str, Any]:
    """What a manifest says of an array."""
    data = np.ascontiguousarray(array).tobytes()
    return {"shape": list(array.shape), "sha256": hashlib.sha256(data).hexdigest()}


def fit(picture: Image.Image, size: Size) -> UInt8[np.ndarray, "height width 3"]:
    """The largest centre part with the ratio of `size` (height, width), resized by a bicubic
    filter."""
    return np.asarray(transforms.cover(picture, size))


def fit_mask(mask: Mask, size: Size) -> Mask | None:
    """The same part of a mask: a pixel is repainted if any part of it is. None for everywhere."""
    shares = Image.fromarray(mask.astype(np.float32))
    repaint = np.asarray(transforms.cover(shares, size, Image.Resampling.BOX)) > 1e-6
    return None if repaint.all() else repaint


def _read(path: str | Path, named: str) -> bytes:
    try:
        return to_path(str(path)).read_bytes()
    except OSError as error:
        raise UsageError(f"{named} cannot be read: {reason(error)}.") from error


def _array_of(given: Any, named: str) -> np.ndarray:
    if not isinstance(given, str | Path):
        return np.asarray(given)
    try:
        return read_npy(_read(given, named))
    except (ValueError, EOFError, MemoryError) as error:
        raise UsageError(f"{named} is no .npy file of numbers: {reason(error)}.") from error


def _of_array(given: Any, named: str) -> Image.Image:
    pixels = np.asarray(given if hasattr(given, "__array__") else None)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or not pixels.size:
        raise UsageError(
            f"{named} is {type(given).__name__}, {pixels.dtype} of shape {pixels.shape}; it must "
            "be a file, a PIL image, or an array of uint8 of shape (height, width, 3)."
        )
    if pixels.shape[-1] not in _CHANNELS:
        raise UsageError(f"{named} has {pixels.shape[-1]} channels; it must have 1, 3 or 4.")
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels)
