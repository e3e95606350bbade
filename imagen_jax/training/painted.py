"""Figures such as FID of pictures that a run paints: many more than a sheet's, and none is kept."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, UInt8

from imagen_jax.config import StageConfig
from imagen_jax.data.pipeline import Batch, ReadCaptions, make_dataset
from imagen_jax.data.records import Source
from imagen_jax.networks import Networks, Params
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.sampling import make_sampler, picture_keys, plan_sampling

Pictures = UInt8[np.ndarray, "pictures height width 3"]
Features = Float[np.ndarray, "pictures features"]
_SEED = 0
"""Of pictures and noise: not the run's own, so that runs can be compared."""


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
    """

    every: int
    pictures: int
    measure: PictureMeasure


class PaintedFigures:
    """Paints as the EMA of the weights would, and measures.

    Picture i has the same caption, low-resolution picture and noise at every step and in every run,
    on any number of devices. Broken records have no part in it.
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
        self._size = config.training.batch_size // config.training.accumulation_steps
        self._dataset = make_dataset(
            source,
            # Threads: worker processes would be started anew each time.
            dataclasses.replace(config, data=dataclasses.replace(config.data, num_workers=0)),
            read,
            batch_size=self._size,
            rows=meshes.local_rows(self._size, mesh),
            seed=_SEED,
        )
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
        measure, leads = self._measuring.measure, distributed.leads()
        parts = [measure.features(x) if leads else None for x in self._paint(params)]
        return measure.figures(np.concatenate(parts)) if leads else {}

    def _paint(self, params: Params) -> Iterator[Pictures]:
        """As many pictures as are measured, on all processes."""
        left = self._measuring.pictures
        for number, batch in enumerate(self._dataset):
            rows = np.arange(number * self._size, (number + 1) * self._size)
            pictures = self._paint_batch(params, batch, rows)[:left]
            left -= len(pictures)
            yield pictures
            if left == 0:
                return

    def _paint_batch(self, params: Params, batch: Batch, rows: np.ndarray) -> Pictures:
        """Those of a batch whose records are not broken."""
        sample, numbers = self._sampler(batch["image"].shape[1:3])
        batch = meshes.global_batch(batch, self._mesh)
        keys = picture_keys(_SEED, self._config.resolution, int(rows[-1]) + 1)[rows[0] :]
        conditions = self._conditions(params, batch)
        pictures, _ = sample(params, numbers, keys, conditions, params.get("null_text"))
        weight, pictures = meshes.to_host((batch["weight"], pictures))
        return pictures[weight > 0]

    def _make_sampler(self, size: tuple[int, int]) -> tuple[Any, Any]:
        """How pictures of a size are painted, and the numbers that this takes."""
        plan, numbers = plan_sampling(self._config, self._config.sampling, size)
        return make_sampler(self._config, plan, self._networks, size=size), numbers
