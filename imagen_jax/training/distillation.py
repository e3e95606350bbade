"""Distillation: a student learns what its teacher predicts, or two of its steps in one.

A student is a stage of its own that begins with its teacher's weights. What it learns of guidance
is Meng et al. 2022 (https://arxiv.org/abs/2210.03142, stage 1), and what it learns of steps
Salimans & Ho 2022 (https://arxiv.org/abs/2202.00512) or Heek et al. 2024
(https://arxiv.org/abs/2403.06807).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from imagen_jax.arrays import Images, Keys, LogSNR, NullText, Time
from imagen_jax.conditions import Conditions, stacked
from imagen_jax.config import StageConfig
from imagen_jax.config.choices import Schedule, Spacing
from imagen_jax.diffusion import guidance, process, samplers, schedules
from imagen_jax.diffusion.distillation import ddim_step, two_in_one
from imagen_jax.diffusion.pixels import to_unit
from imagen_jax.diffusion.schedules import PerPicture, over_pixels
from imagen_jax.networks import Networks, Params, retold_guidance, told_guidance
from imagen_jax.training.objective import Batch, Metrics, by_time, drawn, loss_weight, split

TEACHER = "teacher"
"""The teacher's U-Net among frozen parameters."""
Predict = Callable[[Images, LogSNR], Images]
"""(z, lambda) -> what a network predicts, or an estimate of x."""
Taught = Callable[[Images, LogSNR, Bool[Array, " batch"] | bool], Images]
"""The same of a teacher, which is guided where the third argument says so."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A stage that a student learns from, without its parameters."""

    config: StageConfig
    networks: Networks

    def predictor(
        self, params: Params, told: Conditions, null: NullText | None, weights: PerPicture | None
    ) -> Taught:
        """What the teacher predicts, guided by `weights` unless they are None.

        Args:
            told: what the student is told, its guidance weights among it where it takes any.
        """
        by_two = weights is not None and self.config.conditions.guidance is None
        encoded = self.networks.encode(params, stacked(told, null, guided=by_two))

        def predict(z: Images, log_snr: LogSNR, guided: Bool[Array, " batch"] | bool) -> Images:
            if weights is None:
                return self.networks.predict(params, z, log_snr, encoded).value
            own = jnp.where(guided, weights, 1.0)
            if not by_two:
                at_weights = retold_guidance(self.config, encoded, own)
                return self.networks.predict(params, z, log_snr, at_weights).value
            both = (jnp.concatenate([x, x]) for x in (z, log_snr))
            value = self.networks.predict(params, *both, encoded).value
            return guidance.guide(*jnp.split(value, 2), over_pixels(own))

        return predict

    def estimator(self, predict: Taught, size: tuple[int, int]) -> Taught:
        """The estimate of x that the teacher's sampler would step with."""
        settings = self.config.sampling
        percentile = guidance.Percentile.of(settings.percentile, 3 * math.prod(size))
        cap = math.inf if settings.max_threshold is None else settings.max_threshold

        def estimate(z: Images, log_snr: LogSNR, guided: Bool[Array, " batch"] | bool) -> Images:
            predicted = predict(z, log_snr, guided)
            x0 = process.to_x0(predicted, z, log_snr, self.config.diffusion.prediction)
            return guidance.threshold(x0, settings.thresholding, percentile, cap)

        return estimate


def distillation_loss(
    teacher: Teacher,
    config: StageConfig,
    networks: Networks,
    params: Params,
    frozen: Params,
    batch: Batch,
    keys: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Each picture's error in what the student predicts of what its teacher does.

    It is the diffusion loss with the teacher's estimate in the place of the picture, for
    conditions drawn as in that and a guidance weight drawn evenly from the range to be learned.
    """
    x = to_unit(batch["image"])
    times, noise, scales, *others = split(keys, 6)
    told, weights = drawn(config, networks, params | frozen, batch, *others), None
    if config.conditions.guidance is not None:
        low, high = config.conditions.guidance
        weights = low + (high - low) * jax.vmap(jax.random.uniform)(scales)
        told = told_guidance(config, told, weights)
    eps = process.normal(noise, x.shape[1:])
    predict = teacher.predictor({"unet": frozen[TEACHER]}, told, frozen.get("null_text"), weights)
    encoded = networks.encode(params, told)

    def own(z: Images, log_snr: LogSNR) -> Images:
        return networks.predict(params, z, log_snr, encoded).value

    if config.distillation.steps is None:
        matches = _at_any_time
    elif config.distillation.method == "progressive":
        matches = _in_one_step
    else:
        matches = functools.partial(_consistently, own)
    t, log_snr, z, wanted = matches(teacher, config, predict, x, eps, times)
    prediction = own(z, log_snr)
    losses = process.mean_square(prediction, jax.lax.stop_gradient(wanted))
    losses *= loss_weight(config.diffusion, t, log_snr)
    return losses, by_time(losses, t, batch["weight"])


Matched = tuple[Time, LogSNR, Images, Images]
"""t, lambda and z, and what the student should predict there."""


def _at_any_time(
    teacher: Teacher, config: StageConfig, predict: Taught, x: Images, eps: Images, keys: Keys
) -> Matched:
    """The teacher's own prediction, guided, at a time drawn as in ordinary training.

    A student that predicts something else learns the estimate of x that the teacher's sampler
    takes: made of eps alone, v and x0 have errors of 1 / alpha, without a bound at t = 1.
    """
    t = jax.vmap(jax.random.uniform)(keys)
    log_snr = schedules.log_snr(config.diffusion.schedule, t)
    z = process.q_sample(x, eps, log_snr)
    kind = config.diffusion.prediction
    if teacher.config.diffusion.prediction == kind:
        return t, log_snr, z, predict(z, log_snr, True)
    estimate = teacher.estimator(predict, x.shape[1:3])(z, log_snr, True)
    return t, log_snr, z, process.converted(estimate, z, log_snr, "x0", kind)


def _in_one_step(
    teacher: Teacher, config: StageConfig, predict: Taught, x: Images, eps: Images, keys: Keys
) -> Matched:
    """Where two deterministic steps of the teacher lead, at a time drawn from the student's."""
    steps = config.distillation.steps
    index = _drawn_index(keys, steps)
    grid, guided = teachers_grid(config, teacher.config), teachers_guided(config, teacher.config)
    at_t, at_m, at_s = (grid[2 * index + later] for later in range(3))
    z = process.q_sample(x, eps, at_t)
    estimate = teacher.estimator(predict, x.shape[1:3])
    x_t = estimate(z, at_t, guided[2 * index])
    x_m = estimate(ddim_step(z, x_t, at_t, at_m), at_m, guided[2 * index + 1])
    both = two_in_one(x_t, x_m, at_t, at_m, at_s)
    wanted = process.converted(both, z, at_t, "x0", config.diffusion.prediction)
    return 1 - index / steps, at_t, z, wanted


def _consistently(
    own: Predict,
    teacher: Teacher,
    config: StageConfig,
    predict: Taught,
    x: Images,
    eps: Images,
    keys: Keys,
) -> Matched:
    """Where one deterministic step of the teacher, and from there the student itself, lead: to the
    end of the student's step, at a time drawn from the teacher's.

    Args:
        own: (z, lambda) -> what the student predicts.
    """
    kind, each = config.diffusion.prediction, config.distillation.each
    count = config.distillation.consistency_steps
    index = _drawn_index(keys, count)
    grid = teachers_grid(config, teacher.config)
    at_t, at_m, at_s = grid[index], grid[index + 1], grid[(index // each + 1) * each]
    guided = teachers_guided(config, teacher.config)[index]
    z = process.q_sample(x, eps, at_t)
    x_t = teacher.estimator(predict, x.shape[1:3])(z, at_t, guided)
    z_m = ddim_step(z, x_t, at_t, at_m)
    x_m = process.to_x0(own(z_m, at_m), z_m, at_m, kind)
    both = two_in_one(x_t, x_m, at_t, at_m, at_s)
    return 1 - index / count, at_t, z, process.converted(both, z, at_t, "x0", kind)


def _drawn_index(keys: Keys, count: int) -> Int32[Array, " batch"]:
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, count))(keys)


def teachers_grid(config: StageConfig, teacher: StageConfig) -> samplers.LogSNRGrid:
    """lambda at the ends of the teacher's steps, so many in each of the student's; the last one is
    infinite, since a picture is the last estimate itself."""
    grid = samplers.time_grid(*_teachers_steps(config, teacher))
    return grid.at[-1].set(jnp.inf)


def teachers_guided(config: StageConfig, teacher: StageConfig) -> Bool[Array, " steps"]:
    """Which of these steps the teacher's sampler guides; a student is told one weight and learns
    where it is used."""
    settings, times = teacher.sampling, samplers.times(*_teachers_steps(config, teacher))
    only = settings.guidance_interval, settings.guidance_oscillates_from
    return jnp.asarray(guidance.guided_steps(times, *only))


def _teachers_steps(
    config: StageConfig, teacher: StageConfig
) -> tuple[Schedule, int, Spacing, tuple[int, ...]]:
    """What `samplers.time_grid` takes."""
    student, settings = config.distillation, teacher.sampling
    count = student.each * student.steps
    timesteps = settings.timesteps if len(settings.timesteps) == count else ()
    return teacher.diffusion.schedule, count, settings.spacing, timesteps
