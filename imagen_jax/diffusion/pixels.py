"""Pixels as they are stored, and pictures as the diffusion sees them."""

import jax.numpy as jnp
from jaxtyping import Array, UInt8

from imagen_jax.arrays import Images, Pixels


def to_unit(pixels: UInt8[Array, "batch height width channels"]) -> Images:
    """0..255 -> [-1, 1], float32."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_pixels(images: Images) -> Pixels:
    """[-1, 1] -> 0..255, rounded and clipped."""
    return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
