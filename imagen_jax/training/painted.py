"""Figures such as FID of pictures that a run paints: many more than a sheet's, and none is kept."""

import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, UInt8

from imagen_jax.config import StageConfig
from imagen_jax.data.pipeline import Batch, ReadCaptions
from imagen_jax.data.records import Source
from imagen_jax.errors import UsageError
from imagen_jax.networks import Networks, Params
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.plan import Numbers, plan_sampling
from imagen_jax.pipeline.sampling import Run, StepwiseSampler, picture_keys
from imagen_jax.training.evaluation import SEED, judged_at_once, judged_batches

Pictures = UInt8[np.ndarray, "pictures height width 3"]
Features = Float[np.ndarray, "pictures features"]


@runtime_checkable
class PictureMeasure(Protocol):
    """Measures pictures in the features of a network, on the devices of one process."""

    def features(self, pictures: Pictures) -> Features: ...

    def figures(self, features: Features) -> dict[str, float]:
        """Named figures of all pictures together."""
        ...


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What a run measures of pictures that it paints.

    Attributes:
        every: so many steps.
        pictures: so many of them.
        measure: of the first of several processes; the others need none.
    """

    every: int
    pictures: int
    measure: PictureMeasure | None


def _painted_at_once(config: StageConfig, mesh: jax.sharding.Mesh) -> int:
    """Whole pictures of a batch: about as many pixels as its crops have in a training step."""
    side = config.data.crop or config.resolution
    count = max(judged_at_once(config) * side**2 // config.resolution**2, 1)
    return meshes.batch_starts(count, count, mesh).step


class PaintedFigures:
    """Paints as the EMA of the weights would, and measures.

    Pictures are whole, also of a run that is trained on crops. Picture i has the same caption,
    low-resolution picture and noise at every step and in every run, on any number of devices.
    Broken records have no part in it.
    """

    def __init__(
        self,
        config: StageConfig,
        networks: Networks,
        read: ReadCaptions | None,
        source: Source,
        mesh: jax.sharding.Mesh,
        measuring: Measuring,
    ) -> None:
        """`read`: of captions. `source`: records that say what is painted; a small one is gone
        through several times.
        """
        self._config, self._networks, self._mesh = config, networks, mesh
        self._measuring = measuring
        self._size = _painted_at_once(config, mesh)
        # Two good records of two shuffled passes are never farther from each other.
        self._most_broken = 2 * len(source) + self._size
        whole = dataclasses.replace(
            config, data=dataclasses.replace(config.data, crop=None, flip=0.0)
        )
        self._dataset = judged_batches(source, whole, read, mesh, self._size)
        self._conditions = jax.jit(networks.conditions_of)
        self._sampler = functools.cache(self._make_sampler)

    @property
    def every(self) -> int:
        """Steps between two times."""
        return self._measuring.every

    def __call__(self, params: Params) -> dict[str, float]:
        """The figures, on the first of several processes; all must call it.

        `params` holds U-Net, text encoder and, where the stage has one, the "null_text".
        """
        measure = self._measuring.measure if distributed.leads() else None
        parts = [measure and measure.features(pictures) for pictures in self._paint(params)]
        return measure.figures(np.concatenate(parts)) if measure else {}

    def _paint(self, params: Params) -> Iterator[Pictures]:
        """As many pictures as are measured, on all processes.

        Raises:
            UsageError: all records are broken.
        """
        left, broken = self._measuring.pictures, 0
        for number, batch in enumerate(self._dataset):
            pictures = self._paint_batch(params, batch, number * self._size)[:left]
            if len(pictures):
                yield pictures
            left, broken = left - len(pictures), 0 if len(pictures) else broken + self._size
            if broken > self._most_broken:
                raise UsageError(
                    f"There is nothing to measure: {broken} records after which pictures are "
                    "painted were broken, one after another."
                )
            if left == 0:
                return

    def _paint_batch(self, params: Params, batch: Batch, first: int) -> Pictures:
        """Those of a batch whose records are not broken; `first`: number of its first picture."""
        sample, numbers = self._sampler(batch["image"].shape[1:3])
        batch = meshes.global_batch(batch, self._mesh)
        keys = picture_keys(SEED, self._config.resolution, self._size, first)
        conditions = self._conditions(params, batch)
        painted = sample(params, numbers, keys, conditions, params.get("null_text"))
        weight, (pictures, finite) = meshes.to_host((batch["weight"], painted))
        good = weight > 0
        if not finite[good].all() and distributed.leads():
            warnings.warn(
                "Pictures that are measured hold numbers that are not finite; they are black or "
                "grey.",
                stacklevel=2,
            )
        return pictures[good]

    def _make_sampler(self, size: tuple[int, int]) -> tuple[StepwiseSampler, Numbers]:
        """How pictures of a size are painted, and the numbers that this takes."""
        plan, numbers = plan_sampling(self._config, self._config.sampling, size)
        pictures = meshes.batch_sharding(self._mesh)
        run = Run(self._config, plan, self._networks, size, pictures)
        return StepwiseSampler(run), numbers
