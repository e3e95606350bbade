"""Weights and pictures drawn by rule, so that the golden of FID's network need not hold them."""

import math
import zlib

import numpy as np

SIZES = {"alone": (2, 107, 91), "resized": (1, 40, 56)}
"""Number, height and width of the pictures: read as they are, and first brought to 299 pixels."""


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of the published names, float32; values keep their spread from layer to layer."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("conv.weight"):
        values = rng.normal(size=shape) * math.sqrt(2 / math.prod(shape[1:]))
    elif name.endswith(("bn.weight", "running_var")):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = 0.2 * rng.normal(size=shape)
    return np.asarray(values, np.float32)


def pictures(name: str) -> np.ndarray:
    """uint8 (pictures, height, width, 3)."""
    count, height, width = SIZES[name]
    shape = (count, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
