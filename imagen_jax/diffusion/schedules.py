"""Noise schedules: log-SNR as a function of time, and alpha and sigma from it.

Time runs from 0 (clean picture) to 1 (noise). A schedule says lambda(t) and nothing else;
the process is variance preserving, so alpha and sigma follow from lambda alone.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.arrays import LogSNR, Time
from imagen_jax.config.choices import Schedule
from imagen_jax.diffusion import chain

PerPicture = Float[Array, "batch"]
"""One number per picture."""
AnyShape = Float[Array, "*shape"]
"""The same shape wherever one signature says it."""

LOG_SNR_MAX = 20.0
"""|lambda| is truncated here (Kingma et al. 2021; Salimans & Ho 2022); the paper is silent."""


def cosine_log_snr(t: Time) -> LogSNR:
    """lambda(t) = -2 log tan(pi t / 2), with [0, 1] mapped onto lambda in [20, -20].

    Nichol & Dhariwal 2021, in the truncated form of Salimans & Ho 2022. With
    phi = b + a t, cos(phi) is written as sin(b + a (1 - t)): tan near pi/2 would cost
    float32 its digits at t = 1.
    """
    b = math.atan(math.exp(-LOG_SNR_MAX / 2))
    a = math.pi / 2 - 2 * b
    return 2 * (jnp.log(jnp.sin(b + a * (1 - t))) - jnp.log(jnp.sin(b + a * t)))


def linear_log_snr(t: Time) -> LogSNR:
    """lambda(t) = -log(exp(B) - 1), B = integral of beta from 0 to t, alpha^2 = exp(-B).

    The continuous limit (Song et al. 2021, VP SDE) of the "1000 step linear" chain of the
    paper's appendix F.3, betas 1e-4 to 0.02: beta(t) = 1000 (1e-4 + t (0.02 - 1e-4)). The
    paper does not say how the chain is carried over to continuous time. lambda is 20 at
    t = 0 by truncation and -10.05 at t = 1.
    """
    first, last = 1000 * 1e-4, 1000 * 0.02
    integral = first * t + (last - first) / 2 * t**2
    return -jnp.log(jnp.expm1(jnp.maximum(integral, math.exp(-LOG_SNR_MAX))))


def shifted_cosine_log_snr(side: int, t: Time) -> LogSNR:
    """lambda(t) + 2 ln(64 / side) of the cosine (Hoogeboom et al. 2023, simple diffusion, eq. 6).

    Averaged down to 64 pixels, a picture of that side is then as noisy as under the cosine.
    """
    return cosine_log_snr(t) + 2 * math.log(64 / side)


def linear_log_snr_to_zero(t: Time) -> LogSNR:
    """`linear` with alpha moved so that it ends in 0 and begins as it was (Lin et al. 2023,
    algorithm 1): alpha' = alpha(0) (alpha - alpha(1)) / (alpha(0) - alpha(1)).

    lambda is -20 at t = 1 by truncation.
    """
    ends, smallest = linear_log_snr(jnp.array([0.0, 1.0])), math.exp(-LOG_SNR_MAX / 2)
    linear = linear_log_snr(t)
    (first, last), alpha = alpha_sigma(ends)[0], alpha_sigma(linear)[0]
    alpha = jnp.maximum(first * (alpha - last) / (first - last), smallest)
    # Of an alpha that is rounded to 1 nothing is left of sigma, and no slope is known.
    rounded = alpha >= 1
    alpha = jnp.where(rounded, 0.5, alpha)
    moved = 2 * jnp.log(alpha) - jnp.log1p(-(alpha**2))
    return jnp.where(rounded, linear, jnp.minimum(moved, linear))


_SCHEDULES: dict[str, Callable[[Time], LogSNR]] = {
    "cosine": cosine_log_snr,
    "linear": linear_log_snr,
    "cosine_chain": chain.log_snr,
    "linear_to_zero": linear_log_snr_to_zero,
    **{
        f"cosine_shifted_{side}": functools.partial(shifted_cosine_log_snr, side)
        for side in (128, 256, 512, 1024)
    },
}


def log_snr(schedule: Schedule, t: Time) -> LogSNR:
    """lambda(t) = log(alpha_t^2 / sigma_t^2) of the named schedule; never rising with t."""
    return _SCHEDULES[schedule](t)


def slope(schedule: Schedule, t: Time) -> PerPicture:
    """dlambda/dt of a schedule in continuous time; of the discrete chain it is 0."""
    return jax.jvp(functools.partial(log_snr, schedule), (t,), (jnp.ones_like(t),))[1]


def alpha_sigma(log_snr: AnyShape) -> tuple[AnyShape, AnyShape]:
    """alpha = sqrt(sigmoid(lambda)), sigma = sqrt(sigmoid(-lambda)); alpha^2 + sigma^2 = 1."""
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


def over_pixels(values: PerPicture) -> Float[Array, "batch 1 1 1"]:
    """One number per picture, shaped to broadcast over height, width and channels."""
    return values[:, None, None, None]
