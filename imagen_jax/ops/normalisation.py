"""Normalisations whose statistics are float32, in plain JAX."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.arrays import Images

Activation = Callable[[jax.Array], jax.Array]
OfChannels = Float[Array, " channels"]
PerPicture = Float[Array, "batch channels"]
PerChannel = Float[Array, "batch 1 1 channels"]
Sequences = Float[Array, "batch length width"]

_T5_EPSILON = 1e-6


def group_norm(
    x: Images,
    gain: OfChannels,
    bias: OfChannels,
    scale: PerPicture | float,
    shift: PerPicture | float,
    *,
    groups: int,
    epsilon: float,
    activation: Activation | None,
) -> Images:
    """activation(GN(x) (1 + scale) + shift), in x's dtype.

    GN(x) = (x - mean) / sqrt(variance + epsilon) * gain + bias, both over the positions and
    channels of a group (Wu & He 2018).
    """
    multiply, add = group_norm_map(x, gain, bias, scale, shift, groups=groups, epsilon=epsilon)
    return mapped(x, multiply, add, activation)


def group_norm_map(
    x: Images,
    gain: OfChannels,
    bias: OfChannels,
    scale: PerPicture | float,
    shift: PerPicture | float,
    *,
    groups: int,
    epsilon: float,
) -> tuple[PerChannel, PerChannel]:
    """(multiply, add) such that GN(x) (1 + scale) + shift = x multiply + add.

    Sums over positions come first and groups are combined on the small (batch, channels)
    arrays: one pass over the picture instead of several.
    """
    x32 = x.astype(jnp.float32)
    mean, square = x32.mean((1, 2)), jnp.square(x32).mean((1, 2))
    mean, square = _over_groups(mean, groups), _over_groups(square, groups)
    inverse = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + epsilon)
    multiply = inverse * gain * (1 + scale)
    add = (bias - mean * inverse * gain) * (1 + scale) + shift
    return multiply[:, None, None, :], add[:, None, None, :]


def mapped(
    x: Images, multiply: PerChannel, add: PerChannel, activation: Activation | None
) -> Images:
    """activation(x multiply + add), the sum in float32 and the activation in x's dtype."""
    x = (x.astype(jnp.float32) * multiply + add).astype(x.dtype)
    return x if activation is None else activation(x)


def _over_groups(x: PerPicture, groups: int) -> PerPicture:
    """Each channel's value -> the mean of its group."""
    grouped = x.reshape(x.shape[0], groups, -1).mean(-1, keepdims=True)
    return jnp.broadcast_to(grouped, (*grouped.shape[:2], x.shape[1] // groups)).reshape(x.shape)


def rms_norm(x: Sequences, gain: OfChannels) -> Sequences:
    """x / sqrt(mean(x^2) + 1e-6) * gain, over the last axis, in float32 (T5's layer norm)."""
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + _T5_EPSILON) * gain[None, None]
