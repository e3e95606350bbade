"""Samplers: from noise to pictures, given a `denoise(z, log_snr, step) -> x0`.

A sampler is a small frozen dataclass that holds its own options and says two things: what it
remembers between steps (`start`), and how a step goes from time t (more noise) to s < t (`update`).
The loop is the same for all: `start` puts z at the first time of a grid, `take` goes one step, and
`finish` gives the picture. So a run may begin at any time from any z, stop before the end, and go
on later. All arithmetic is float32.

The picture is the last x0 itself: it is the step to sigma = 0, without noise and, for the
multistep and Heun's solver, of first order, as is usual for stability with few steps.

Picture b of a batch draws from keys[b] alone, so it does not depend on the batch around it.

A new sampler is a class like those below and a line in `SAMPLERS`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from imagen_jax.arrays import Images, Traced
from imagen_jax.config.choices import SamplerName, Schedule
from imagen_jax.diffusion import chain
from imagen_jax.diffusion.noise import NoiseKeys, fold_in, normal
from imagen_jax.diffusion.process import Denoise, Predicted
from imagen_jax.diffusion.schedules import LOG_SNR_MAX, alpha_sigma, log_snr
from imagen_jax.errors import UsageError

Scalar = Float[Array, ""]
StepIndex = Int32[Array, ""]
LogSNRGrid = Float[Array, "grid"]
"""lambda at the num_steps + 1 ends of the steps, from t = 1 to t = 0."""
Estimate = Callable[[Images, Scalar], Predicted]
"""(z, lambda) -> x0, and gamma where that is predicted."""

# Folded into a picture's key for z_1, as step indices are for the noise of the steps.
_INITIAL_NOISE = 2**31 - 1


class Step(NamedTuple):
    """One step of a grid, from time t (more noise) to s < t."""

    index: StepIndex
    """Of the whole grid, wherever the run began; a step that is taken again counts on from the
    grid's end, so that each draws noise of its own."""
    log_snr_before: Scalar
    """lambda where the step before began; at the grid's first step that of t."""
    log_snr_t: Scalar
    log_snr_s: Scalar


class State(NamedTuple):
    """Where a run stands between two steps."""

    z: Images
    x0: Images
    """The estimate of the picture at the last step; zeros before the first."""
    memory: Any
    """What the sampler's `start` gave and its `update` goes on with: a pytree of arrays."""
    difference: Images | None = None
    """What guidance led along at the last step, zeros before the first; None without momentum."""


@runtime_checkable
class Sampler(Protocol):
    """Fields are options, which may be traced values: a changed one compiles nothing anew."""

    def start(self, z: Images) -> Any:
        """What is remembered before the first step; () for nothing."""
        ...

    def update(self, estimate: Estimate, state: State, step: Step, keys: NoiseKeys) -> State:
        """The state at s, from that at t."""
        ...


def posterior_mean(z: Images, x0: Images, log_snr_t: Scalar, log_snr_s: Scalar) -> Images:
    """mu~_{s|t} = (1 - r) (alpha_s / alpha_t) z_t + r alpha_s x, r = 1 - e^{lambda_t - lambda_s}.

    The mean of q(z_s | z_t, x) (appendix A).
    """
    (alpha_t, _), (alpha_s, _) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    kept, r = jnp.exp(log_snr_t - log_snr_s), -jnp.expm1(log_snr_t - log_snr_s)
    return kept * (alpha_s / alpha_t) * z + r * alpha_s * x0


def ancestral_std(
    log_snr_t: Scalar, log_snr_s: Scalar, gamma: float | Scalar | Images
) -> Scalar | Images:
    """sqrt((sigma~^2_{s|t})^(1-gamma) (sigma^2_{t|s})^gamma), the noise of appendix A.

    sigma~^2_{s|t} = r sigma_s^2 is the variance of q(z_s | z_t, x) and sigma^2_{t|s} =
    r sigma_t^2 that of q(z_t | z_s), with r = 1 - e^{lambda_t - lambda_s}.
    """
    (_, sigma_t), (_, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    r = -jnp.expm1(log_snr_t - log_snr_s)
    return jnp.sqrt(r) * sigma_s ** (1 - gamma) * sigma_t**gamma


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ancestral:
    """z_s = mu~_{s|t}(z_t, x0) + sqrt((sigma~^2)^(1-gamma) (sigma^2)^gamma) eps (appendix A).

    With a predicted gamma it is DDPM's step with a learned range of variances (Nichol & Dhariwal
    2021, eq. 15); `gamma` is not read then.
    """

    gamma: Traced = 0.3

    def start(self, z: Images) -> tuple[()]:
        return ()

    def update(self, estimate: Estimate, state: State, step: Step, keys: NoiseKeys) -> State:
        x0, predicted, *_ = estimate(state.z, step.log_snr_t)
        gamma = self.gamma if predicted is None else predicted
        mean = posterior_mean(state.z, x0, step.log_snr_t, step.log_snr_s)
        std = ancestral_std(step.log_snr_t, step.log_snr_s, gamma)
        return State(mean + std * noise(keys, step, state.z), x0, ())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DDIM:
    """z_s = alpha_s x0 + sigma_s (sqrt(1 - eta^2 r) eps_t + eta sqrt(r) eps).

    eps_t = (z_t - alpha_t x0) / sigma_t and r = 1 - e^{lambda_t - lambda_s}. eta = 0 is
    that of appendix A. eta scales the noise sigma~_{s|t} (Song et al. 2021, eq. 12 and 16), so
    that eta = 1 is the ancestral sampler with gamma = 0. Written so that the argument of the
    root cannot be rounded below zero.

    Where the estimate without text is told too, eps_t is that of it: CFG++ (Chung et al. 2024,
    https://arxiv.org/abs/2406.08070, algorithm 2), in which guidance moves x0 and no noise.
    """

    eta: Traced = 0.0

    def start(self, z: Images) -> tuple[()]:
        return ()

    def update(self, estimate: Estimate, state: State, step: Step, keys: NoiseKeys) -> State:
        x0, _, away, *_ = estimate(state.z, step.log_snr_t)
        alpha_t, sigma_t = alpha_sigma(step.log_snr_t)
        alpha_s, sigma_s = alpha_sigma(step.log_snr_s)
        r = -jnp.expm1(step.log_snr_t - step.log_snr_s)
        eps = (state.z - alpha_t * (x0 if away is None else away)) / sigma_t
        fresh = self.eta * jnp.sqrt(r) * noise(keys, step, state.z)
        z = alpha_s * x0 + sigma_s * (jnp.sqrt(1 - self.eta**2 * r) * eps + fresh)
        return State(z, x0, ())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DPMSolverPP2M:
    """z_s = (sigma_s / sigma_t) z_t - alpha_s (e^{-h} - 1) D, D = x0 + h / (2 h') (x0 - x0').

    DPM-Solver++(2M), Lu et al. 2022b, algorithm 2, with x0' and h' of the step before and
    h = log(alpha_s / sigma_s) - log(alpha_t / sigma_t), half the step in log-SNR. The first
    step of a run has no x0' and is of first order: D = x0. Deterministic: no keys are read.
    """

    def start(self, z: Images) -> Array:
        """Whether there was a step before."""
        return jnp.zeros((), bool)

    def update(self, estimate: Estimate, state: State, step: Step, keys: NoiseKeys) -> State:
        x0, *_ = estimate(state.z, step.log_snr_t)
        h = (step.log_snr_s - step.log_snr_t) / 2
        h_before = (step.log_snr_t - step.log_snr_before) / 2
        extrapolation = jnp.where(state.memory, h / (2 * h_before), 0.0)
        d = x0 + extrapolation * (x0 - state.x0)
        (_, sigma_t), (alpha_s, sigma_s) = map(alpha_sigma, (step.log_snr_t, step.log_snr_s))
        z = sigma_s / sigma_t * state.z - alpha_s * jnp.expm1(-h) * d
        return State(z, x0, jnp.ones((), bool))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Heun:
    """y_s = y_t + (n_s - n_t) (d_t + d_s) / 2, d = (y - x0) / n (Karras et al. 2022, algorithm 1).

    y = z / alpha and n = sigma / alpha are z and its noise beside a picture that keeps its scale;
    d_s is taken where an Euler step ends. It denoises twice a step. Deterministic: no keys are
    read. A step from more noise than n = 80, where theirs begins, is Euler's: n is 2e4 at t = 1.
    """

    def start(self, z: Images) -> tuple[()]:
        return ()

    def update(self, estimate: Estimate, state: State, step: Step, keys: NoiseKeys) -> State:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = map(alpha_sigma, (step.log_snr_t, step.log_snr_s))
        n_t, n_s = sigma_t / alpha_t, sigma_s / alpha_s
        x0, *_ = estimate(state.z, step.log_snr_t)
        d_t = (state.z - alpha_t * x0) / sigma_t
        euler = alpha_s * x0 + sigma_s * d_t
        x0_s, *_ = estimate(euler, step.log_snr_s)
        d_s = (euler - alpha_s * x0_s) / sigma_s
        second_order = jnp.where(n_t <= 80.0, (n_s - n_t) * (d_s - d_t) / 2, 0.0)
        return State(euler + alpha_s * second_order, x0, ())


SAMPLERS: dict[SamplerName, type[Sampler]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "dpm++": DPMSolverPP2M,
    "heun": Heun,
}


def make(name: SamplerName, options: object) -> Sampler:
    """The named sampler with its own options, taken from the fields of `options` by name."""
    kind = SAMPLERS[name]
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})


def time_grid(
    schedule: Schedule,
    num_steps: int,
    spacing: chain.Spacing = "even",
    timesteps: Sequence[int] = (),
) -> LogSNRGrid:
    """lambda(1 - i / num_steps), i = 0 .. num_steps: uniform steps in time.

    With `timesteps` lambda((step + 1) / 1000) of each, and of t = 0. On the discrete chain lambda
    of these steps, or of `num_steps` as `spacing` has them; the end that follows them is never
    reached.

    Raises:
        UsageError: a spacing of a chain, but the schedule is none.
    """
    if schedule == "cosine_chain":
        steps = list(timesteps or chain.spaced(spacing, num_steps))
        return jnp.asarray([*chain.LOG_SNRS[steps], LOG_SNR_MAX], jnp.float32)
    if spacing != "even":
        raise UsageError(
            f"The schedule is {schedule!r}; the spacing {spacing!r} belongs to 'cosine_chain'."
        )
    if timesteps:
        t = [*times(schedule, num_steps, spacing, timesteps), 0.0]
        return log_snr(schedule, jnp.asarray(t, jnp.float32))
    return log_snr(schedule, jnp.linspace(1.0, 0.0, num_steps + 1, dtype=jnp.float32))


def times(
    schedule: Schedule,
    num_steps: int,
    spacing: chain.Spacing = "even",
    timesteps: Sequence[int] = (),
) -> Float[np.ndarray, " steps"]:
    """t of each step of `time_grid`'s, from 1 (noise) down to, but without, 0."""
    if timesteps or schedule == "cosine_chain":
        return (np.array(timesteps or chain.spaced(spacing, num_steps)) + 1) / chain.STEPS
    return 1 - np.arange(num_steps) / num_steps


def initial_noise(keys: NoiseKeys, shape: Sequence[int]) -> Images:
    """z_1 ~ N(0, I): `shape` = [height, width, channels] for each picture's own key."""
    return normal(fold_in(keys, _INITIAL_NOISE), shape)


def noise(keys: NoiseKeys, step: Step, z: Images) -> Images:
    """The fresh noise of one step, in the shape of z."""
    return normal(fold_in(keys, step.index), z.shape[1:])


def start(sampler: Sampler, z: Images) -> State:
    """Before the first step, at z."""
    return State(z, jnp.zeros_like(z), sampler.start(z))


def take(
    sampler: Sampler,
    denoise: Denoise,
    state: State,
    log_snrs: LogSNRGrid,
    keys: NoiseKeys,
    index: StepIndex,
    again: int | StepIndex = 0,
) -> State:
    """The step `index` from a state at its time; it was taken `again` times before."""
    led = () if state.difference is None else (state.difference,)
    estimates: list[Predicted] = []

    def estimate(z: Images, log_snr: Scalar) -> Predicted:
        estimates.append(denoise(z, jnp.broadcast_to(log_snr, z.shape[:1]), index, *led))
        return estimates[-1]

    before, drawn = jnp.maximum(index - 1, 0), index + again * (len(log_snrs) - 1)
    step = Step(drawn, log_snrs[before], log_snrs[index], log_snrs[index + 1])
    state = sampler.update(estimate, state, step, keys)
    # That of the step's first estimate, so that both of Heun's are guided from the same memory.
    return state._replace(difference=estimates[0].difference)


def finish(state: State) -> Images:
    """The picture, in [-1, 1] where the estimates are: the last x0."""
    return state.x0
