"""Pictures of one stage: text and keys in, pictures out, one jitted scan."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from imagen_jax.arrays import Features, Images, Keys, LogSNR, NullText, Pixels, Traced
from imagen_jax.conditions import Conditions, stacked
from imagen_jax.config import SamplingConfig, StageConfig
from imagen_jax.config.choices import Thresholding
from imagen_jax.diffusion import edits, guidance, process, samplers
from imagen_jax.diffusion.guidance import Percentile
from imagen_jax.diffusion.pixels import to_pixels, to_unit
from imagen_jax.diffusion.process import Predicted
from imagen_jax.networks import Networks, Params, prepare, told_guidance
from imagen_jax.pipeline.tiles import Tiling, tiled, tiling_of

Positive = tuple[NullText, Traced]
"""Another text, for all pictures, and its share of what is predicted with text."""
# Folded into a picture's key for the noise of its low-resolution input.
_AUGMENTATION = 2**31 - 2


def picture_keys(seed: int, stream: int, count: int, first: int = 0) -> Keys:
    """Keys of `count` pictures of a seed from `first` on; the stages of a cascade are its streams.

    One key per picture, so that picture i depends neither on the batch nor on the devices.
    """
    key = jax.random.fold_in(jax.random.key(seed), stream)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(first, first + count))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a stage samples, as far as it decides what is compiled.

    Attributes:
        log_snrs: the grid of `samplers.time_grid`.
        guided: whether an unconditional half is computed too.
        hidden: pictures that a further part is computed without, to be guided by them.
        projects: whether guidance is that of `guidance.Projection`.
        renoises: whether noise is that of the unconditional estimate.
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
    renoises: bool = False


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
    scales, picture_scales = (
        guidance.guidance_scales(
            scale,
            samplers.times(schedule, steps, settings.spacing, settings.timesteps),
            settings.guidance_interval,
            settings.guidance_oscillates_from,
        )
        for scale in (settings.guidance_scale, settings.picture_guidance_scale)
    )
    by_pictures = config.conditions.can_hide and bool(np.any(picture_scales != 1))
    numbers = Numbers(
        samplers.make(settings.sampler, settings),
        scales,
        Percentile.of(settings.percentile, 3 * math.prod(size)),
        math.inf if settings.max_threshold is None else settings.max_threshold,
        settings.aug_level,
        guidance.Projection(
            settings.guidance_parallel,
            math.inf if settings.guidance_max_norm is None else settings.guidance_max_norm,
        ),
        picture_scales if by_pictures else None,
    )
    by_two = config.conditions.can_be_dropped and config.conditions.guidance is None
    guided = by_two and bool(np.any(scales != 1))
    hidden = tuple(x.name for x in config.inputs.pictures) if by_pictures else ()
    log_snrs = tuple(np.asarray(grid).tolist())
    tiling = tiling_of(config, size, tile)
    kinds = guided and settings.projects, guided and settings.renoising == "unguided"
    return Plan(log_snrs, settings.thresholding, guided, hidden, course, tiling, *kinds), numbers


def make_sampler(
    *arguments: Any, **options: Any
) -> Callable[..., tuple[Pixels, Bool[Array, " batch"]]]:
    """`make_image_sampler` of the same arguments, jitted, with pixels as its result, and whether
    each picture is finite: of what is not, pixels are black or grey."""
    sample = make_image_sampler(*arguments, **options)

    def sample_pixels(*inputs) -> tuple[Pixels, Bool[Array, " batch"]]:
        images = sample(*inputs)
        return to_pixels(images), jnp.isfinite(images).all((1, 2, 3))

    return jax.jit(sample_pixels)


def make_image_sampler(
    config: StageConfig,
    plan: Plan,
    networks: Networks,
    *,
    size: tuple[int, int],
    sharding: jax.sharding.Sharding | None = None,
    on_step: samplers.OnStep | None = None,
    on_estimate: samplers.OnEstimate | None = None,
) -> Callable[..., Images]:
    """A function that paints `size` (height, width) pictures of a stage, in [-1, 1].

    Its arguments are (params, numbers, keys, conditions, null, noise, source, positive): the
    numbers of `plan_sampling`, one key per picture, what the stage is told, its pictures as pixels,
    where the config has the null text `empty` the embedded empty caption (else None), the noise to
    begin with (None draws it from the keys), where the plan has a course what is edited, as pixels,
    and another text with its share.

    `sharding` is how pictures lie on the devices; None leaves it to the arguments. Split
    heights follow from it through all of the network: convolutions fetch the rows that they
    need of their neighbours.
    """

    def split(images: Features) -> Features:
        return images if sharding is None else jax.lax.with_sharding_constraint(images, sharding)

    def sample(
        params: Params,
        numbers: Numbers,
        keys: Keys,
        conditions: Conditions,
        null: NullText | None = None,
        noise: Images | None = None,
        source: edits.Source | None = None,
        positive: Positive | None = None,
    ) -> Images:
        level = jnp.full(keys.shape, numbers.aug_level, jnp.float32)
        noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _AUGMENTATION)
        conditions = prepare(config, conditions, level, noise_keys, size)
        conditions = told_guidance(config, conditions, jnp.full(keys.shape, numbers.scales[0]))
        other, share = (None, None) if positive is None else positive
        parts = stacked(conditions, null, other, guided=plan.guided, hidden=plan.hidden)
        encoded = networks.encode(params, parts)

        def predict(z: Images, log_snr: LogSNR) -> Predicted:
            return jax.tree.map(split, networks.predict(params, split(z), log_snr, encoded))

        if plan.tiling is not None:
            predict = tiled(functools.partial(networks.predict, params), encoded, plan.tiling)
        denoise = _make_denoise(config, plan, numbers, predict, share)
        grid = jnp.asarray(plan.log_snrs, jnp.float32)
        watching = {"on_step": on_step, "on_estimate": on_estimate}
        if plan.course is not None:
            source = dataclasses.replace(source, picture=to_unit(source.picture))
            run = (numbers.sampler, denoise, source, plan.course, grid, keys)
            return edits.sample(*run, noise=noise, **watching)
        z = samplers.initial_noise(keys, (*size, 3)) if noise is None else noise
        return samplers.sample(numbers.sampler, denoise, z, grid, keys, **watching)

    return sample


def _make_denoise(
    config: StageConfig, plan: Plan, numbers: Numbers, predict: Callable, share: Traced
) -> process.Denoise:
    threshold = functools.partial(
        guidance.threshold,
        kind=plan.thresholding,
        percentile=numbers.percentile,
        cap=numbers.max_threshold,
    )
    scales = numbers.scales if plan.guided else None
    return guidance.make_denoise(
        predict,
        config.diffusion.prediction,
        scales,
        threshold,
        share,
        numbers.picture_scales,
        numbers.projection if plan.projects else None,
        tells_away=plan.renoises,
    )
