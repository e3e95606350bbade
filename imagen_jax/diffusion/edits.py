"""Edits: pictures that begin as another one, and keep a part of it.

A run from a picture begins at a later step, from the picture noised to that step's time (SDEdit,
Meng et al. 2022). Where a part is known it takes the known picture's place in z after every step:

- `clean` puts it there without noise, from the first step on: diffusers' rule for DeepFloyd IF.
- `repaint` noises it to the time that z has reached, and goes back some steps again and again, so
  that what is new has time to fit it (Lugmayr et al. 2022, algorithm 1).

The estimate of the picture is never touched: what is known is put over it by whoever knows its
pixels.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from imagen_jax.arrays import Images, Traced
from imagen_jax.config.choices import Inpainting
from imagen_jax.diffusion import samplers
from imagen_jax.diffusion.noise import NoiseKeys, fold_in, normal
from imagen_jax.diffusion.process import Denoise, q_sample
from imagen_jax.diffusion.samplers import LogSNRGrid, Sampler, Scalar, State
from imagen_jax.diffusion.schedules import alpha_sigma

# Folded into a picture's key before the step's index, for noise that is not the sampler's own.
_KNOWN_NOISE = 2**31 - 3
_BACKWARD_NOISE = 2**31 - 4


class Visit(NamedTuple):
    """One step of a run that may go back."""

    at: int | Int32[Array, ""]
    """Place on the grid before it; where that is later than the step, it first goes back."""
    step: int | Int32[Array, ""]
    """Its index."""
    again: int | Int32[Array, ""]
    """How often it was taken before."""


@dataclasses.dataclass(frozen=True)
class Course:
    """How a run goes, as far as it decides what is compiled.

    Attributes:
        first: index of the first step.
        visits: the steps in the order in which they are taken; none gives the picture back.
        inpainting: how the known part enters, if there is one.
    """

    first: int
    visits: tuple[Visit, ...]
    inpainting: Inpainting = "repaint"

    @property
    def goes_back(self) -> bool:
        return any(visit.at != visit.step for visit in self.visits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Source:
    """What is edited.

    Attributes:
        picture: float32 [1 or batch, height, width, 3] in [-1, 1].
        repaint: bool [height, width, 1], where the picture is not known; None where no part of
            it stays.
    """

    picture: Traced
    repaint: Traced = None


def first_step(num_steps: int, strength: float) -> int:
    """N - floor(N strength), as diffusers has it; but a strength above 0 takes one step at least.

    Args:
        strength: 0 leaves the picture as it is, and 1 forgets it.
    """
    return num_steps - max(int(num_steps * strength), int(strength > 0))


def visits(
    first: int, num_steps: int, *, jump_length: int = 1, resamplings: int = 1
) -> tuple[Visit, ...]:
    """RePaint's schedule (Lugmayr et al. 2022, appendix B) on the steps from `first` on.

    With i steps left after the one that was taken, for i = 0, j, 2j, ... below n - j, it goes back
    j steps, r - 1 times.

    Args:
        jump_length: j, in steps.
        resamplings: r, how often each part of the way is gone; 1 goes straight.
    """
    lefts = range(0, num_steps - first - jump_length, jump_length)
    jumps = {num_steps - 1 - left: resamplings - 1 for left in lefts}
    at, taken = first, [0] * num_steps
    course = []
    while at < num_steps:
        index = at
        if jumps.get(at):
            jumps[at] -= 1
            index -= jump_length
        course.append(Visit(at, index, taken[index]))
        taken[index] += 1
        at = index + 1
    return tuple(course)


def for_each(source: Source, count: int) -> Source:
    """The source with a picture for each of `count` that are painted."""
    shape = (count, *source.picture.shape[1:])
    return dataclasses.replace(source, picture=jnp.broadcast_to(source.picture, shape))


def start(
    sampler: Sampler, source: Source, course: Course, log_snrs: LogSNRGrid, eps: Images
) -> State:
    """Before the first step: alpha x + sigma eps, but eps alone where the run is a whole one."""
    z = eps
    if course.first > 0:
        log_snr = jnp.broadcast_to(log_snrs[course.first], len(eps))
        z = q_sample(source.picture, eps, log_snr)
    if source.repaint is not None and course.inpainting == "clean":
        z = jnp.where(source.repaint, z, source.picture)
    return State(z, source.picture, sampler.start(z))


def take(
    sampler: Sampler,
    denoise: Denoise,
    state: State,
    source: Source,
    course: Course,
    log_snrs: LogSNRGrid,
    keys: NoiseKeys,
    visit: Visit,
) -> State:
    """One visit of the course's, with the known part in its place after it."""
    if course.goes_back:
        state = _back(sampler, state, visit, log_snrs, keys)
    state = samplers.take(sampler, denoise, state, log_snrs, keys, visit.step, visit.again)
    eps = _noise(keys, _KNOWN_NOISE, visit, log_snrs, state.z)
    z = with_known(state.z, source, course.inpainting, log_snrs[visit.step + 1], eps)
    return state._replace(z=z)


def noise_again(z: Images, log_snr_s: Scalar, log_snr_t: Scalar, eps: Images) -> Images:
    """z_t ~ q(z_t | z_s) = N((alpha_t / alpha_s) z_s, r sigma_t^2), r = 1 - e^{lambda_t - lambda_s}
    (appendix A); z itself where t is s."""
    (alpha_t, sigma_t), (alpha_s, _) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    r = -jnp.expm1(log_snr_t - log_snr_s)
    return alpha_t / alpha_s * z + jnp.sqrt(r) * sigma_t * eps


def with_known(
    z: Images, source: Source, inpainting: Inpainting, log_snr: Scalar, eps: Images
) -> Images:
    """z with the known part in its place: x without noise, or alpha x + sigma eps."""
    if source.repaint is None:
        return z
    known = source.picture
    if inpainting == "repaint":
        known = q_sample(known, eps, jnp.broadcast_to(log_snr, len(z)))
    return jnp.where(source.repaint, z, known)


def _back(
    sampler: Sampler, state: State, visit: Visit, log_snrs: LogSNRGrid, keys: NoiseKeys
) -> State:
    """The state at the time where the step begins; who went back remembers no step before."""
    eps = _noise(keys, _BACKWARD_NOISE, visit, log_snrs, state.z)
    z = noise_again(state.z, log_snrs[visit.at], log_snrs[visit.step], eps)
    went_on = visit.at == visit.step
    memory = jax.tree.map(
        lambda kept, fresh: jnp.where(went_on, kept, fresh), state.memory, sampler.start(z)
    )
    led = None if state.difference is None else jnp.where(went_on, state.difference, 0.0)
    return State(z, state.x0, memory, led)


def _noise(keys: NoiseKeys, purpose: int, visit: Visit, log_snrs: LogSNRGrid, z: Images) -> Images:
    """Noise of each visit's own, in the shape of z."""
    drawn = visit.step + visit.again * (len(log_snrs) - 1)
    return normal(fold_in(fold_in(keys, purpose), drawn), z.shape[1:])
