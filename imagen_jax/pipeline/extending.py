"""Pictures with room around them, which is to be painted."""

import reprlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from imagen_jax.config.data import LARGEST_SIDE
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.given import Mask

SIDES = ("left", "right", "top", "bottom")


def extended(
    picture: Image.Image, repaint: Mask | None, extend: Mapping[str, int]
) -> tuple[Image.Image, Mask]:
    """A picture that goes on at some sides with the colours of its edges, and where it is painted.

    Args:
        repaint: of the picture itself; None for nowhere.
        extend: any of `SIDES` -> how many pixels.

    Raises:
        UsageError: there is no such side, a number is none, or the result is too large.
    """
    if not isinstance(extend, Mapping):
        raise UsageError(f"extend is {extend!r}; it must be sides and their pixels.")
    for side, pixels in extend.items():
        if side not in SIDES:
            raise UsageError(f"extend has the side {side!r}; there are {', '.join(SIDES)}.")
        if not isinstance(pixels, int) or isinstance(pixels, bool) or pixels < 1:
            raise UsageError(f"extend has {pixels!r} pixels; it must be a whole number from 1.")
        if pixels > LARGEST_SIDE:
            raise UsageError(
                f"extend has {reprlib.repr(pixels)} pixels; none may become larger than "
                f"{LARGEST_SIDE} pixels."
            )
    left, right, top, bottom = (extend.get(side, 0) for side in SIDES)
    size = (picture.height + top + bottom, picture.width + left + right)
    if not extend or max(size) > LARGEST_SIDE:
        raise UsageError(
            f"extend is {dict(extend)!r}, of {size[0]}x{size[1]} pixels; it must name at least one "
            f"side, and none may become larger than {LARGEST_SIDE} pixels."
        )
    room = ((top, bottom), (left, right))
    if repaint is None:
        repaint = np.zeros((picture.height, picture.width), bool)
    pixels = np.pad(np.asarray(picture), (*room, (0, 0)), mode="edge")
    return Image.fromarray(pixels), np.pad(repaint, room, constant_values=True)
