"""Two deterministic steps in one: what a student of half as many steps should predict.

Progressive distillation (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, section 3). With
a = alpha / sigma = e^{lambda / 2}, a step of DDIM from t to s is

    z_s / sigma_s = z_t / sigma_t + (a_s - a_t) x,

so that two steps, from t by way of m to s, with the estimates x_t and x_m, end where one does with

    x~ = f x_t + (1 - f) x_m,    f = (a_m - a_t) / (a_s - a_t),

which lies between the two. In multistep consistency (Heek et al. 2024,
https://arxiv.org/abs/2403.06807, algorithm 1) x_m is what the student itself says at m, and s is
the end of one of its steps. All arithmetic is float32.
"""

import jax.numpy as jnp

from imagen_jax.arrays import Images, LogSNR
from imagen_jax.diffusion.schedules import alpha_sigma, over_pixels


def ddim_step(z: Images, x0: Images, log_snr_t: LogSNR, log_snr_s: LogSNR) -> Images:
    """z_s = alpha_s x0 + sigma_s (z_t - alpha_t x0) / sigma_t (appendix A of the paper)."""
    alpha_t, sigma_t = alpha_sigma(over_pixels(log_snr_t))
    alpha_s, sigma_s = alpha_sigma(over_pixels(log_snr_s))
    return alpha_s * x0 + sigma_s * (z - alpha_t * x0) / sigma_t


def two_in_one(
    x_t: Images, x_m: Images, log_snr_t: LogSNR, log_snr_m: LogSNR, log_snr_s: LogSNR
) -> Images:
    """x~ = f x_t + (1 - f) x_m, f = (a_m - a_t) / (a_s - a_t).

    Args:
        x_t: the estimate at t.
        x_m: that at m, where a step with x_t led.
        log_snr_s: infinite where s is the end, whose picture is x_m itself; where m is s, the
            first step alone leads there.
    """
    first, both = jnp.expm1((log_snr_m - log_snr_t) / 2), jnp.expm1((log_snr_s - log_snr_t) / 2)
    f = over_pixels(jnp.where(log_snr_m == log_snr_s, 1.0, first / both))
    return f * x_t + (1 - f) * x_m
