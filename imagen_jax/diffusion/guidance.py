"""Classifier-free guidance and thresholding: from a network's output to an estimate of x."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from imagen_jax.arrays import Images, LogSNR, Traced
from imagen_jax.config.choices import Prediction, Thresholding
from imagen_jax.diffusion.process import Denoise, Predicted, to_x0
from imagen_jax.diffusion.schedules import PerPicture, over_pixels

Scalar = Float[Array, ""]
OverPixels = Float[Array, "batch 1 1 1"]
GuidanceScales = Float[Array, "steps"]
"""w of each denoising step."""
_TINY = 1e-12
_KEPT_FROM = (99.0, 90.0, 0.0)
"""The largest values from one of these percentiles up are selected, so that another percentile
above it changes nothing that is compiled."""


def guide(conditional: Images, unconditional: Images, scale: float | Scalar | OverPixels) -> Images:
    """eps~ = w eps(z, c) + (1 - w) eps(z) (paper, eq. 2); w = 1 is no guidance, not w = 0."""
    return scale * conditional + (1 - scale) * unconditional


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projection:
    """x~ = x_c + (w - 1) (d_o + eta d_p), d = min(1, r / |D|) D, D = x_c - x_u + beta D'.

    Adaptive projected guidance (Sadat et al. 2024, https://arxiv.org/abs/2410.02416, algorithm 1).
    d_p is the part of d along the estimate with text, which saturates colours, and d_o the rest;
    norms are over all values of a picture. D' is D at the guided step before, 0 before the first:
    beta < 0 turns guidance away from where it led. eta = 1, no r and beta = 0 is `guide`.
    """

    parallel: Traced
    """eta."""
    max_norm: Traced
    """r."""
    momentum: Traced = 0.0
    """beta."""

    def __call__(
        self,
        conditional: Images,
        unconditional: Images,
        scale: Scalar,
        led: Images | None = None,
    ) -> tuple[Images, Images | None]:
        """x~ and D. Both estimates are of x; `led` is D', and None, as then D is, without beta."""
        difference = conditional - unconditional
        if led is not None:
            difference += self.momentum * led
            # A step that is not guided leads nowhere.
            led = jnp.where(scale == 1, led, difference)
        over_values = functools.partial(jnp.sum, axis=(1, 2, 3), keepdims=True)
        norm = jnp.sqrt(over_values(difference**2))
        difference *= jnp.minimum(1.0, self.max_norm / jnp.maximum(norm, _TINY))
        square = jnp.maximum(over_values(conditional**2), _TINY)
        along = over_values(difference * conditional) / square
        kept = difference - (1 - self.parallel) * along * conditional
        return conditional + (scale - 1) * kept, led


def guidance_scales(
    scale: float, guided: Bool[np.ndarray, " steps"]
) -> Float[np.ndarray, " steps"]:
    """w of each step: `scale` where it is guided, and 1 elsewhere."""
    return np.where(guided, scale, 1.0).astype(np.float32)


def guided_steps(
    times: Float[np.ndarray, " steps"],
    interval: tuple[float, float] = (0.0, 1.0),
    oscillates_from: int | None = None,
) -> Bool[np.ndarray, " steps"]:
    """Which steps are guided: all, but where one of two options beyond the paper says so.

    Args:
        times: t of each step, from 1 (noise) down.
        interval: steps are guided at times within it (Kynkaanniemi et al. 2024).
        oscillates_from: index of the step from which every second one is guided (Imagen Video,
            Ho et al. 2022), beginning with one that is not; None for never.
    """
    start, end = interval
    guided = (times >= start) & (times <= end)
    if oscillates_from is not None:
        since = np.arange(len(times)) - oscillates_from
        guided &= (since < 0) | (since % 2 == 1)
    return guided


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Percentile:
    """Where the p-th percentile of `number` values lies, counted from the largest one down.

    `kept` decides what is compiled, the others are traced: the percentile lies between the values
    of rank `above` and `above` + 1, the largest having rank 0.
    """

    kept: int = dataclasses.field(metadata={"static": True})
    above: Traced
    weights: tuple[Traced, Traced]
    """Of the value of rank `above` and of the one below it."""

    @classmethod
    def of(cls, percentile: float, number: int) -> "Percentile":
        """`percentile` in (0, 100] of `number` values, linear between ranks."""
        rank = (1 - percentile / 100) * (number - 1)
        above = int(rank)
        kept_from = next(bound for bound in _KEPT_FROM if percentile >= bound)
        kept = min(int((1 - kept_from / 100) * (number - 1)) + 2, number)
        return cls(kept, above, (1 - (rank - above), rank - above))

    def __call__(self, values: Float[Array, "batch number"]) -> PerPicture:
        """The percentile of each row, as `jnp.percentile` gives it, without sorting all values."""
        # Without the barrier XLA on CPU takes top_k and what follows for a sort of everything.
        largest = jax.lax.optimization_barrier(jax.lax.top_k(values, self.kept)[0])
        below = jnp.minimum(jnp.asarray(self.above) + 1, self.kept - 1)
        take = functools.partial(jax.lax.dynamic_index_in_dim, largest, axis=1, keepdims=False)
        return self.weights[0] * take(self.above) + self.weights[1] * take(below)


def dynamic_threshold(
    x0: Images, percentile: Percentile, cap: float | Scalar = float("inf")
) -> Images:
    """clip(x, -s, s) / s, s = max(1, p-th percentile of |x|) per picture (section 2.3, A.10).

    `cap` is the most that s may be; the paper has none.
    """
    magnitudes = jnp.abs(x0).reshape(x0.shape[0], -1)
    s = over_pixels(jnp.minimum(jnp.maximum(percentile(magnitudes), 1.0), cap))
    return jnp.clip(x0, -s, s) / s


def threshold(
    x0: Images, kind: Thresholding, percentile: Percentile, cap: float | Scalar = float("inf")
) -> Images:
    """x0 as it is, clipped to [-1, 1] (static), or rescaled into it (dynamic; section 2.3).

    `percentile` and `cap` are read by dynamic thresholding only.
    """
    apply = {
        "none": lambda x0: x0,
        "static": lambda x0: jnp.clip(x0, -1.0, 1.0),
        "dynamic": lambda x0: dynamic_threshold(x0, percentile, cap),
    }
    return apply[kind](x0)


def make_denoise(
    predict: Callable[[Images, LogSNR], Predicted],
    prediction_kind: Prediction,
    scales: GuidanceScales | None,
    threshold: Callable[[Images], Images],
    share: Scalar | None = None,
    picture_scales: GuidanceScales | None = None,
    projection: Projection | None = None,
    renoised: Bool[Array, " steps"] | None = None,
) -> Denoise:
    """A sampler's `denoise(z, log_snr, step) -> x0`: predict, guide, convert to x, threshold.

    `predict` takes one batch of up to four parts, each as large as z: the conditional one; with
    `share` that of another text; unless `scales` is None, for no guidance, that of the null text;
    and with `picture_scales` the one before without pictures, the null text's or else the
    conditional one. A predicted variance is that of the first part.

    With the scale s of pictures (s - 1) (eps_p - eps_0) is added, of these two parts (as Brooks et
    al. 2023 guide by a picture): with it and w the prediction is eps_0 + s (eps_p - eps_0)
    + w (eps_c - eps_p).

    Of two texts c and p the prediction is (1 - m) eps_c + m eps_p, m being `share` (DeepFloyd IF's
    style transfer; Liu et al. 2022).

    Guiding the raw output is guiding eps: every conversion is affine in the prediction and
    the weights w and 1 - w add up to 1. It spares an x- or v-prediction the detour over eps,
    which loses digits at high noise.

    Args:
        projection: guides estimates of x in another way.
        renoised: at which steps a sampler takes noise from the estimate without text.
    """
    parts = 1 + sum(x is not None for x in (share, scales, picture_scales))

    def denoise(
        z: Images, log_snr: LogSNR, step: Int32[Array, ""], led: Images | None = None
    ) -> Predicted:
        as_x0 = functools.partial(to_x0, z=z, log_snr=log_snr, kind=prediction_kind)
        many = (jnp.concatenate([x] * parts) if parts > 1 else x for x in (z, log_snr))
        predicted = predict(*many)
        values = jnp.split(predicted.value.astype(jnp.float32), parts)
        fraction = None if predicted.fraction is None else predicted.fraction[: len(z)]
        value = values[0] if share is None else guide(values[1], values[0], share)
        without_text = value
        if scales is not None:
            without_text = values[-1 if picture_scales is None else -2]
        if picture_scales is not None:  # The same lead for both, whatever becomes of them.
            lead = (picture_scales[step] - 1) * (without_text - values[-1])
            value, without_text = value + lead, without_text + lead
        if scales is None:
            return Predicted(threshold(as_x0(value)), fraction)
        if projection is None:
            x0 = as_x0(guide(value, without_text, scales[step]))
        else:
            x0, led = projection(as_x0(value), as_x0(without_text), scales[step], led)
        x0 = threshold(x0)
        away = None if renoised is None else jnp.where(renoised[step], as_x0(without_text), x0)
        return Predicted(x0, fraction, away, led)

    return denoise
