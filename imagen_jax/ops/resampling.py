"""Pictures of another size: squares as channels, means of squares, repeated pixels."""

from typing import Literal

import jax.numpy as jnp

from imagen_jax.arrays import Features

Resample = Literal["down", "up"]
"""To half the side, or to twice the side."""


def space_to_depth(x: Features, patch: int) -> Features:
    """(B, H, W, C) -> (B, H/p, W/p, p*p*C)."""
    if patch == 1:
        return x
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: Features, patch: int) -> Features:
    """(B, H, W, p*p*C) -> (B, p*H, p*W, C), the inverse of `space_to_depth`."""
    if patch == 1:
        return x
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, c // patch**2)


def downsample(x: Features) -> Features:
    """Mean over 2x2 squares."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample(x: Features) -> Features:
    """Nearest neighbour, twice the side."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)
