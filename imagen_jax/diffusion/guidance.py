"""Classifier-free guidance and thresholding: from a network's output to an estimate of x."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.arrays import Features, Images, LogSNR
from imagen_jax.diffusion.process import Denoise, PredictionType, to_x0
from imagen_jax.diffusion.schedules import PerPicture, over_pixels

Thresholding = Literal["none", "static", "dynamic"]


def guide(conditional: Images, unconditional: Images, scale: float) -> Images:
    """eps~ = w eps(z, c) + (1 - w) eps(z) (paper, eq. 2); w = 1 is no guidance, not w = 0."""
    return scale * conditional + (1 - scale) * unconditional


def upper_percentile(values: Float[Array, "batch number"], percentile: float) -> PerPicture:
    """The p-th percentile of each row, linear between ranks, as `jnp.percentile` gives it.

    It selects the few largest values instead of sorting all of them.
    """
    number = values.shape[1]
    rank = (1 - percentile / 100) * (number - 1)
    above, share = int(rank), rank - int(rank)
    below = min(above + 1, number - 1)
    # Without the barrier XLA on CPU takes top_k and the slices below for a sort of everything.
    largest = jax.lax.optimization_barrier(jax.lax.top_k(values, below + 1)[0])
    return (1 - share) * largest[:, above] + share * largest[:, below]


def dynamic_threshold(x0: Images, percentile: float, cap: float | None = None) -> Images:
    """clip(x, -s, s) / s, s = max(1, p-th percentile of |x|) per picture (section 2.3, A.10).

    `cap` is the most that s may be; the paper has none.
    """
    magnitudes = jnp.abs(x0).reshape(x0.shape[0], -1)
    s = jnp.maximum(upper_percentile(magnitudes, percentile), 1.0)
    s = over_pixels(s if cap is None else jnp.minimum(s, cap))
    return jnp.clip(x0, -s, s) / s


def threshold(
    x0: Images, kind: Thresholding, percentile: float, cap: float | None = None
) -> Images:
    """x0 as it is, clipped to [-1, 1] (static), or rescaled into it (dynamic; section 2.3).

    `percentile`, in (0, 100], and `cap` are read by dynamic thresholding only.
    """
    apply = {
        "none": lambda x0: x0,
        "static": lambda x0: jnp.clip(x0, -1.0, 1.0),
        "dynamic": lambda x0: dynamic_threshold(x0, percentile, cap),
    }
    return apply[kind](x0)


def make_denoise(
    predict: Callable[[Images, LogSNR], Features],
    prediction_kind: PredictionType,
    guidance_scale: float,
    thresholding: Thresholding,
    percentile: float,
    cap: float | None = None,
) -> Denoise:
    """A sampler's `denoise(z, log_snr) -> x0`: predict, guide, convert to x, threshold.

    `predict` takes one doubled batch, [2B, ...] and [2B], whose first half is conditional
    and second half has null text; with a scale of 1 it gets the conditional [B] alone. Where
    it gives twice the channels of z, the second half is the variance v in [-1, 1]: that of the
    conditional half, as (v + 1) / 2, comes out beside x0.

    Guiding the raw output is guiding eps: every conversion is affine in the prediction and
    the weights w and 1 - w add up to 1. It spares an x- or v-prediction the detour over eps,
    which loses digits at high noise.
    """

    def denoise(z: Images, log_snr: LogSNR) -> Features:
        channels = z.shape[-1]
        if guidance_scale == 1:
            conditional = predict(z, log_snr).astype(jnp.float32)
            prediction = conditional[..., :channels]
        else:
            doubled = predict(jnp.concatenate([z, z]), jnp.concatenate([log_snr, log_snr]))
            conditional, unconditional = jnp.split(doubled.astype(jnp.float32), 2)
            pair = conditional[..., :channels], unconditional[..., :channels]
            prediction = guide(*pair, guidance_scale)
        x0 = to_x0(prediction, z, log_snr, prediction_kind)
        x0 = threshold(x0, thresholding, percentile, cap)
        return jnp.concatenate([x0, (conditional[..., channels:] + 1) / 2], axis=-1)

    return denoise
