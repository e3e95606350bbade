"""How a stage samples: what decides what is compiled, and what is traced."""

import dataclasses
import math

import jax
import numpy as np

from imagen_jax.arrays import Traced
from imagen_jax.config import SamplingConfig, StageConfig
from imagen_jax.config.choices import Thresholding
from imagen_jax.diffusion import edits, guidance, samplers
from imagen_jax.diffusion.guidance import Percentile
from imagen_jax.pipeline.tiles import Tiling, tiling_of


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a stage samples, as far as it decides what is compiled.

    Attributes:
        log_snrs: the grid of `samplers.time_grid`.
        guided: whether an unconditional half is computed too.
        hidden: pictures that a further part is computed without, to be guided by them.
        projects: whether guidance is that of `guidance.Projection`.
        averages: whether that has a momentum.
        course: of an edit's steps; None begins with noise and takes all.
        tiling: of each picture; None takes it whole.
    """

    log_snrs: tuple[float, ...]
    thresholding: Thresholding
    guided: bool
    hidden: tuple[str, ...] = ()
    course: edits.Course | None = None
    tiling: Tiling | None = None
    projects: bool = False
    averages: bool = False

    @property
    def visits(self) -> tuple[edits.Visit, ...]:
        """The steps in the order in which they are taken."""
        if self.course is not None:
            return self.course.visits
        return tuple(edits.Visit(i, i, 0) for i in range(len(self.log_snrs) - 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Numbers:
    """How a stage samples, as far as it is traced: other numbers compile nothing anew.

    The kind of the sampler, and how many values the percentile selects from, are part of this
    pytree's structure and so do decide what is compiled.
    """

    sampler: samplers.Sampler
    scales: Traced
    """w of each step, as `guidance.guidance_scales` gives them: float32 [steps]."""
    percentile: Percentile
    max_threshold: Traced
    aug_level: Traced
    projection: guidance.Projection
    picture_scales: Traced = None
    """The same of pictures; None where none is guided by."""
    renoised: Traced = None
    """Which steps take their noise from the estimate without text, bool [steps]; None for none."""


def plan_sampling(
    config: StageConfig,
    settings: SamplingConfig,
    size: tuple[int, int],
    course: edits.Course | None = None,
    tile: int | None = None,
) -> tuple[Plan, Numbers]:
    """The two halves of how a stage paints pictures of `size` (height, width).

    Raises:
        UsageError: the stage did not learn to sample so.
    """
    settings = config.as_learned(settings)
    schedule, steps = config.diffusion.schedule, settings.num_steps
    grid = samplers.time_grid(schedule, steps, settings.spacing, settings.timesteps)
    times = samplers.times(schedule, steps, settings.spacing, settings.timesteps)
    guided = guidance.guided_steps(
        times, settings.guidance_interval, settings.guidance_oscillates_from
    )
    scales, picture_scales = (
        guidance.guidance_scales(scale, guided)
        for scale in (settings.guidance_scale, settings.picture_guidance_scale)
    )
    by_pictures = config.conditions.can_hide and bool(np.any(picture_scales != 1))
    by_two = config.conditions.can_be_dropped and config.conditions.guidance is None
    by_text = by_two and settings.guides and bool(np.any(guided))
    renoises = by_text and settings.renoising == "unguided"
    numbers = Numbers(
        samplers.make(settings.sampler, settings),
        scales,
        Percentile.of(settings.percentile, 3 * math.prod(size)),
        math.inf if settings.max_threshold is None else settings.max_threshold,
        settings.aug_level,
        guidance.Projection(
            settings.guidance_parallel,
            math.inf if settings.guidance_max_norm is None else settings.guidance_max_norm,
            settings.guidance_momentum,
        ),
        picture_scales if by_pictures else None,
        guided if renoises else None,
    )
    hidden = tuple(x.name for x in config.inputs.pictures) if by_pictures else ()
    log_snrs = tuple(np.asarray(grid).tolist())
    tiling = tiling_of(config, size, tile)
    plan = Plan(
        log_snrs,
        settings.thresholding,
        by_text,
        hidden,
        course,
        tiling,
        projects=by_text and settings.projects,
        averages=by_text and settings.guidance_momentum != 0,
    )
    return plan, numbers
