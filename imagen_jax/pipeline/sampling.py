"""Pictures of one stage: text and keys in, pictures out.

Steps are taken one by one: between two of them one can look, tell and stop, and no compiled program
calls back, which not every JAX can keep in its cache.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from imagen_jax.arrays import Features, Images, Keys, LogSNR, NullText, Pixels, Traced
from imagen_jax.conditions import Conditions, stacked
from imagen_jax.config import StageConfig
from imagen_jax.diffusion import edits, guidance, process, samplers
from imagen_jax.diffusion.noise import NoiseKeys, fold_in
from imagen_jax.diffusion.pixels import to_pixels, to_unit
from imagen_jax.diffusion.process import Predicted
from imagen_jax.diffusion.samplers import State
from imagen_jax.models.conditional import Encoded
from imagen_jax.networks import Networks, Params, prepare, retold_guidance, told_guidance
from imagen_jax.parallel import mesh as meshes
from imagen_jax.parallel.seeds import key_of
from imagen_jax.pipeline.plan import Numbers, Plan
from imagen_jax.pipeline.tiles import tiled

Positive = tuple[NullText, Traced]
"""Another text, for all pictures, and its share of what is predicted with text."""
OnStep = Callable[[int], object]
OnEstimate = Callable[[int, UInt8[np.ndarray, "batch height width 3"]], object]
# Folded into a picture's key for the noise of its low-resolution input.
_AUGMENTATION = 2**31 - 2


def picture_keys(seed: int, stream: int, count: int, first: int = 0) -> Keys:
    """Keys of `count` pictures of a seed from `first` on; the stages of a cascade are its streams.

    One key per picture, so that picture i depends neither on the batch nor on the devices.
    """
    key = jax.random.fold_in(key_of(seed), stream)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(first, first + count))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Told:
    """What all steps of a batch read and none changes.

    Attributes:
        keys: of each picture's noise.
        encoded: the conditions, as the U-Net reads them.
        share: of another text, if there is one.
        source: of an edit.
    """

    keys: NoiseKeys
    encoded: Encoded
    share: Traced = None
    source: edits.Source | None = None


class Run:
    """How a batch is painted, in parts that may be jitted: `begin`, then steps to the end."""

    def __init__(
        self,
        config: StageConfig,
        plan: Plan,
        networks: Networks,
        size: tuple[int, int],
        sharding: jax.sharding.Sharding | None = None,
    ):
        """
        Args:
            size: (height, width) of the pictures.
            sharding: how pictures lie on the devices; None leaves it to the arguments. Split
                heights follow from it through all of the network: convolutions fetch the rows
                that they need of their neighbours.
        """
        self.config, self.plan, self.size = config, plan, size
        self._networks, self._sharding = networks, sharding

    def begin(
        self,
        params: Params,
        numbers: Numbers,
        keys: NoiseKeys,
        conditions: Conditions,
        null: NullText | None = None,
        noise: Images | None = None,
        source: edits.Source | None = None,
        positive: Positive | None = None,
    ) -> tuple[Told, State]:
        """Before the first step.

        Args:
            numbers: of `plan_sampling`.
            keys: one per picture, or a pair.
            conditions: what the stage is told, its pictures as pixels.
            null: the embedded empty caption where the config has the null text `empty`, else None.
            noise: to begin with; None draws it from the keys.
            source: what is edited, as pixels, where the plan has a course.
            positive: another text with its share.
        """
        config, plan, size = self.config, self.plan, self.size
        level = jnp.full(len(keys), numbers.aug_level, jnp.float32)
        conditions = prepare(config, conditions, level, fold_in(keys, _AUGMENTATION), size)
        conditions = told_guidance(config, conditions, jnp.full(len(keys), numbers.scales[0]))
        other, share = (None, None) if positive is None else positive
        parts = stacked(conditions, null, other, guided=plan.guided, hidden=plan.hidden)
        encoded = self._networks.encode(params, parts)
        z = samplers.initial_noise(keys, (*size, 3)) if noise is None else noise
        if plan.course is None:
            state = samplers.start(numbers.sampler, z)
        else:
            source = dataclasses.replace(source, picture=to_unit(source.picture))
            source = edits.for_each(source, len(keys))
            state = edits.start(numbers.sampler, source, plan.course, self._grid(), z)
        if plan.averages:
            state = state._replace(difference=jnp.zeros_like(z))
        return Told(keys, encoded, share, source), self._split_state(state)

    def step(
        self, params: Params, numbers: Numbers, told: Told, state: State, visit: edits.Visit
    ) -> State:
        """One of the plan's `visits`, after those before."""
        encoded = retold_guidance(self.config, told.encoded, numbers.scales[visit.step])
        told = dataclasses.replace(told, encoded=encoded)
        denoise, grid = self._denoise(params, numbers, told), self._grid()
        if self.plan.course is None:
            state = samplers.take(numbers.sampler, denoise, state, grid, told.keys, visit.step)
        else:
            course, sampler = self.plan.course, numbers.sampler
            edited = (told.source, course, grid, told.keys)
            state = edits.take(sampler, denoise, state, *edited, visit)
        return self._split_state(state)

    def _grid(self) -> samplers.LogSNRGrid:
        return jnp.asarray(self.plan.log_snrs, jnp.float32)

    def _split(self, images: Features) -> Features:
        if self._sharding is None:
            return images
        return jax.lax.with_sharding_constraint(images, self._sharding)

    def _split_state(self, state: State) -> State:
        """States of all steps lie alike, so that a step is compiled once."""
        pictures = {name: getattr(state, name) for name in ("z", "x0", "difference")}
        return state._replace(**jax.tree.map(self._split, pictures))

    def _denoise(self, params: Params, numbers: Numbers, told: Told) -> process.Denoise:
        def predict(z: Images, log_snr: LogSNR) -> Predicted:
            predicted = self._networks.predict(params, self._split(z), log_snr, told.encoded)
            return jax.tree.map(self._split, predicted)

        if self.plan.tiling is not None:
            predict = functools.partial(self._networks.predict, params)
            predict = tiled(predict, told.encoded, self.plan.tiling, len(told.keys))
        return _make_denoise(self.config, self.plan, numbers, predict, told.share)


class StepwiseSampler:
    """Paints a run from its beginning to its end, and tells of each step.

    What is compiled is the beginning, one step and the end.
    """

    def __init__(self, run: Run, gather: Callable[[Params], Params] | None = None):
        """`gather` brings parameters together before the first step; None takes them as given."""
        self._gather = None if gather is None else jax.jit(gather)
        self._visits = run.plan.visits
        self._begin, self._step = jax.jit(run.begin), jax.jit(run.step, donate_argnums=3)
        self._end = jax.jit(_finish)
        self._pixels = jax.jit(to_pixels)

    def __call__(
        self,
        params: Params,
        numbers: Numbers,
        *inputs: Any,
        on_step: OnStep | None = None,
        on_estimate: OnEstimate | None = None,
        check_bytes: Callable[[int], None] | None = None,
    ) -> tuple[Pixels, Bool[Array, " batch"]]:
        """Pictures and whether each is finite.

        Args:
            inputs: as `Run.begin` takes them.
            on_step: called with the number of steps that were taken before, after each step.
            on_estimate: called with that and the present estimate of all pictures, which takes
                a transfer from the device a step. All processes must have one, or none.
            check_bytes: called before the first step with what that takes of each device beside
                its inputs. The step is compiled once more for it.
        """
        if self._gather is not None:
            params = self._gather(params)
        told, state = self._begin(params, numbers, *inputs)
        visits = [edits.Visit(*map(np.int32, visit)) for visit in self._visits]
        if check_bytes is not None and visits:  # An edit of no strength takes no step.
            step = self._step.lower(params, numbers, told, state, visits[0]).compile()
            check_bytes(step.memory_analysis().temp_size_in_bytes)
        for number, visit in enumerate(visits):
            state = self._step(params, numbers, told, state, visit)
            if on_step is not None:
                jax.block_until_ready(state.x0)
                on_step(number)
            if on_estimate is not None:
                on_estimate(number, meshes.to_host(self._pixels(state.x0)))
        return self._end(state)


def _finish(state: State) -> tuple[Pixels, Bool[Array, " batch"]]:
    """Pixels, and whether each picture is finite: of what is not, they are black or grey."""
    images = samplers.finish(state)
    return to_pixels(images), jnp.isfinite(images).all((1, 2, 3))


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
        numbers.renoised,
    )
