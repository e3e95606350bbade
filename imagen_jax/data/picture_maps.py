"""A picture's map of named colours and its outlines, which a stage can be taught to follow."""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

from imagen_jax.data import emoji_colours

COLOURS = list(emoji_colours.BACKGROUNDS)
"""Those of a map, in the order of their numbers."""
_RGB = np.stack([emoji_colours.from_hex(text) for text in emoji_colours.BACKGROUNDS.values()])
DOMINANT = 0.03
"""Share of a picture from which on a colour counts."""
EDGE = 0.12
"""Least distance in OKLab between neighbours on both sides of an outline."""

Pixels = UInt8[np.ndarray, "height width 3"]
Labels = UInt8[np.ndarray, "height width"]
Outlines = Bool[np.ndarray, "height width"]


def label_map(pixels: Pixels) -> Labels:
    """The number of each pixel's nearest colour, of those that dominate, without single pixels."""
    lab = emoji_colours.to_oklab(pixels.reshape(-1, 3))
    anchors = emoji_colours.to_oklab(_RGB)
    distances = np.linalg.norm((lab[:, None] - anchors) * (0.5**0.5, 1, 1), axis=-1)
    shares = np.bincount(distances.argmin(1), minlength=len(COLOURS)) / len(lab)
    distances[:, shares < DOMINANT] = np.inf
    numbers = distances.argmin(1).astype(np.uint8).reshape(pixels.shape[:2])
    return np.asarray(Image.fromarray(numbers).filter(ImageFilter.ModeFilter(3)))


def outlines(pixels: Pixels) -> Outlines:
    """Where a picture's colour changes from a pixel to the next one below or to the right."""
    lab = emoji_colours.to_oklab(pixels)
    found = np.zeros(pixels.shape[:2], bool)
    found[:-1] |= np.linalg.norm(np.diff(lab, axis=0), axis=-1) > EDGE
    found[:, :-1] |= np.linalg.norm(np.diff(lab, axis=1), axis=-1) > EDGE
    return found


def sketch(pixels: Pixels) -> Labels:
    """The outlines, black on white."""
    return np.where(outlines(pixels), 0, 255).astype(np.uint8)


def in_colours(labels: Labels) -> Pixels:
    """A map as it is shown."""
    return _RGB[labels]
