"""Samplers: from noise to pictures, given a `denoise(z, log_snr) -> x0`. One scan each.

A step goes from time t (more noise) to s < t. All arithmetic is float32. The last step
returns the last x0 itself: it is the step to sigma = 0, without noise and, for the
multistep solver, of first order, as is usual for stability with few steps.

Picture b of a batch draws from keys[b] alone, so it does not depend on the batch around it.

A network that predicts its variance decides gamma of the ancestral sampler, for each value.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from imagen_jax.arrays import Features, Images, Keys
from imagen_jax.diffusion import chain
from imagen_jax.diffusion.process import Denoise, normal
from imagen_jax.diffusion.schedules import LOG_SNR_MAX, Schedule, alpha_sigma, log_snr
from imagen_jax.errors import UsageError

SamplerName = Literal["ancestral", "ddim", "dpm++"]
Scalar = Float[Array, ""]
StepIndex = Int32[Array, ""]
LogSNRGrid = Float[Array, "grid"]
"""lambda at the num_steps + 1 ends of the steps, from t = 1 to t = 0."""
OnStep = Callable[[StepIndex], object]
Update = Callable[[StepIndex, Images, Images, Images, Features], Images]
"""(step index, z_t, x0, x0 of the step before, predicted gamma or no channels) -> z_s."""

# Folded into a picture's key for z_1, as step indices are for the noise of the steps.
_INITIAL_NOISE = 2**31 - 1


def time_grid(
    schedule: Schedule, num_steps: int, spacing: chain.Spacing = "even",
    timesteps: Sequence[int] = (),
) -> LogSNRGrid:  # fmt: skip
    """lambda(1 - i / num_steps), i = 0 .. num_steps: uniform steps in time.

    On the discrete chain lambda of `timesteps`, or of `num_steps` steps as `spacing` has them;
    the end that follows them is never reached.

    Raises:
        UsageError: steps of a chain, but the schedule is none.
    """
    if schedule == "cosine_chain":
        steps = list(timesteps or chain.spaced(spacing, num_steps))
        return jnp.asarray([*chain.LOG_SNRS[steps], LOG_SNR_MAX], jnp.float32)
    if timesteps or spacing != "even":
        raise UsageError(
            f"The schedule is {schedule!r}; timesteps and the spacing {spacing!r} belong to "
            "'cosine_chain'."
        )
    return log_snr(schedule, jnp.linspace(1.0, 0.0, num_steps + 1))


def posterior_mean(z: Images, x0: Images, log_snr_t: Scalar, log_snr_s: Scalar) -> Images:
    """mu~_{s|t} = (1 - r) (alpha_s / alpha_t) z_t + r alpha_s x, r = 1 - e^{lambda_t - lambda_s}.

    The mean of q(z_s | z_t, x) (appendix A).
    """
    (alpha_t, _), (alpha_s, _) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    kept, r = jnp.exp(log_snr_t - log_snr_s), -jnp.expm1(log_snr_t - log_snr_s)
    return kept * (alpha_s / alpha_t) * z + r * alpha_s * x0


def ancestral_std(log_snr_t: Scalar, log_snr_s: Scalar, gamma: float | Images) -> Scalar | Images:
    """sqrt((sigma~^2_{s|t})^(1-gamma) (sigma^2_{t|s})^gamma), the noise of appendix A, eq. 5.

    sigma~^2_{s|t} = r sigma_s^2 is the variance of q(z_s | z_t, x) and sigma^2_{t|s} =
    r sigma_t^2 that of q(z_t | z_s), with r = 1 - e^{lambda_t - lambda_s}.
    """
    (_, sigma_t), (_, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    r = -jnp.expm1(log_snr_t - log_snr_s)
    return jnp.sqrt(r) * sigma_s ** (1 - gamma) * sigma_t**gamma


def ancestral(
    denoise: Denoise, z: Images, log_snrs: LogSNRGrid, keys: Keys, *,
    gamma: float, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """z_s = mu~_{s|t}(z_t, x0) + sqrt((sigma~^2)^(1-gamma) (sigma^2)^gamma) eps (App. A, eq. 5).

    With a predicted gamma it is DDPM's step with a learned range of variances (Nichol & Dhariwal
    2021, eq. 15); `gamma` is not read then.
    """

    def update(i: StepIndex, z: Images, x0: Images, _: Images, predicted: Features) -> Images:
        mean = posterior_mean(z, x0, log_snrs[i], log_snrs[i + 1])
        between = predicted if predicted.shape[-1] else gamma
        return mean + ancestral_std(log_snrs[i], log_snrs[i + 1], between) * _noise(keys, i, z)

    return _scan(denoise, update, z, log_snrs, on_step)


def ddim(
    denoise: Denoise, z: Images, log_snrs: LogSNRGrid, keys: Keys, *,
    eta: float, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """z_s = alpha_s x0 + sigma_s (sqrt(1 - eta^2 r) eps_t + eta sqrt(r) eps).

    eps_t = (z_t - alpha_t x0) / sigma_t and r = 1 - e^{lambda_t - lambda_s}. eta = 0 is
    appendix A, eq. 6. eta scales the noise sigma~_{s|t} (Song et al. 2021, eq. 12 and 16), so
    that eta = 1 is the ancestral sampler with gamma = 0. Written so that the argument of the
    root cannot be rounded below zero.
    """

    def update(i: StepIndex, z: Images, x0: Images, *_: Features) -> Images:
        alpha_t, sigma_t = alpha_sigma(log_snrs[i])
        alpha_s, sigma_s = alpha_sigma(log_snrs[i + 1])
        r = -jnp.expm1(log_snrs[i] - log_snrs[i + 1])
        eps = (z - alpha_t * x0) / sigma_t
        noise = eta * jnp.sqrt(r) * _noise(keys, i, z)
        return alpha_s * x0 + sigma_s * (jnp.sqrt(1 - eta**2 * r) * eps + noise)

    return _scan(denoise, update, z, log_snrs, on_step)


def dpm_solver_pp_2m(
    denoise: Denoise, z: Images, log_snrs: LogSNRGrid, keys: Keys, *,
    on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """z_s = (sigma_s / sigma_t) z_t - alpha_s (e^{-h} - 1) D, D = x0 + h / (2 h') (x0 - x0').

    DPM-Solver++(2M), Lu et al. 2022b, algorithm 2, with x0' and h' of the step before and
    h = log(alpha_s / sigma_s) - log(alpha_t / sigma_t), half the step in log-SNR. The first
    step has no x0' and is of first order: D = x0. Deterministic: `keys` is not read.
    """
    h = jnp.diff(log_snrs) / 2
    extrapolation = jnp.concatenate([jnp.zeros(1), h[1:] / (2 * h[:-1])])

    def update(i: StepIndex, z: Images, x0: Images, previous: Images, _: Features) -> Images:
        (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(log_snrs[i]), alpha_sigma(log_snrs[i + 1])
        d = x0 + extrapolation[i] * (x0 - previous)
        return sigma_s / sigma_t * z - alpha_s * jnp.expm1(-h[i]) * d

    return _scan(denoise, update, z, log_snrs, on_step)


def sample(
    name: SamplerName, denoise: Denoise, shape: Sequence[int], log_snrs: LogSNRGrid, keys: Keys, *,
    gamma: float, eta: float, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """z_1 ~ N(0, I), then the named sampler down to x0.

    Args:
        shape: [height, width, channels] of one picture.
        log_snrs: from `time_grid`.
        keys: one per picture; their number is the batch size.
        gamma: of `ancestral`; the other samplers do not read it.
        eta: of `ddim`; the other samplers do not read it.
        on_step: called on the host with the index of each step as it is done.
    """
    samplers = {
        "ancestral": functools.partial(ancestral, gamma=gamma),
        "ddim": functools.partial(ddim, eta=eta),
        "dpm++": dpm_solver_pp_2m,
    }
    z = normal(_fold_in(keys, _INITIAL_NOISE), shape)
    return samplers[name](denoise, z, log_snrs, keys, on_step=on_step)


def _scan(
    denoise: Denoise, update: Update, z: Images, log_snrs: LogSNRGrid, on_step: OnStep | None
) -> Images:
    """x0 <- denoise(z_t), z_s <- update(z_t, x0), over all steps; returns the last x0.

    The last update is computed and dropped: a step outside the scan would compile the
    network a second time.
    """

    def step(carry: tuple[Images, Images], i: StepIndex):
        z, previous = carry
        estimate = denoise(z, jnp.broadcast_to(log_snrs[i], z.shape[:1]))
        x0, predicted = jnp.split(estimate, [z.shape[-1]], axis=-1)
        if on_step is not None:
            jax.debug.callback(on_step, i)
        return (update(i, z, x0, previous, predicted), x0), None

    steps = jnp.arange(len(log_snrs) - 1, dtype=jnp.int32)
    (_, x0), _ = jax.lax.scan(step, (z, jnp.zeros_like(z)), steps)
    return x0


def _noise(keys: Keys, i: StepIndex, z: Images) -> Images:
    return normal(_fold_in(keys, i), z.shape[1:])


def _fold_in(keys: Keys, data: int | StepIndex) -> Keys:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)
