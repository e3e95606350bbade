"""The loss on pictures that a run is not trained on."""

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.checkpoints.state import TrainState
from imagen_jax.config import StageConfig
from imagen_jax.data.pipeline import ReadCaptions, make_dataset
from imagen_jax.data.records import Source
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError
from imagen_jax.networks import Networks, Params
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.sampling import picture_keys
from imagen_jax.training.objective import Batch, Objective

SEED = 0
"""Of pictures and noise: not the run's own, so that runs can be compared."""


def judged_at_once(config: StageConfig) -> int:
    """Pictures of a batch that a run is judged by: those of a part of a training step."""
    return config.training.batch_size // config.training.accumulation_steps


def judged_batches(
    source: Source,
    config: StageConfig,
    read: ReadCaptions | None,
    mesh: jax.sharding.Mesh,
    size: int,
) -> Iterable[Batch]:
    """The rows of this process in batches of `size` of a source, without end, the same in every
    run; their low-resolution pictures have no faults."""
    # Threads: worker processes would be started anew each time.
    data = dataclasses.replace(config.data, num_workers=0, low_res_blur=0.0, low_res_blotches=0.0)
    return make_dataset(
        source,
        dataclasses.replace(config, data=data),
        read,
        batch_size=size,
        rows=meshes.local_rows(size, mesh),
        seed=SEED,
    )


def open_held_out(config: StageConfig) -> Source | None:
    """The records that a run is judged by; None, with a warning, where it has none.

    Raises:
        UsageError: as `open_source`, naming the held-out set.
    """
    held_out = config.data.held_out()
    if held_out is None:
        if distributed.leads():
            warnings.warn(
                "there are no held-out pictures, so that no loss on them is measured; name some "
                "with data.eval_source",
                stacklevel=2,
            )
        return None
    try:
        return open_source(held_out, config.low_resolution, config.conditions)
    except UsageError as error:
        raise UsageError(f"The held-out set cannot be opened: {error}") from error


class HeldOutLoss:
    """Mean loss of the EMA and of the raw weights on the same held-out pictures.

    Broken records have no part in it; it is NaN where all are broken.

    Picture i has the same caption, crop, time and noise at every step and in every run, on any
    number of devices, and nothing is dropped: what changes is the weights alone.
    """

    def __init__(
        self,
        config: StageConfig,
        networks: Networks,
        objective: Objective,
        read: ReadCaptions | None,
        source: Source,
        mesh: jax.sharding.Mesh,
    ):
        """`read`: of captions. `source`: of the held-out records; a small one is gone through
        several times.
        """
        training = config.training
        self._mesh, self._batches = mesh, training.eval_batches
        self._size = judged_at_once(config)
        self._dataset = judged_batches(source, config, read, mesh, self._size)
        next(iter(self._dataset))  # What cannot be read shows before the first step.
        undropped = dataclasses.replace(training, caption_dropout=0.0)
        whole = dataclasses.replace(config.conditions, picture_dropout=0.0)
        judged = dataclasses.replace(config, training=undropped, conditions=whole)
        self._totals = jax.jit(
            functools.partial(_totals, objective, judged, networks),
            out_shardings=meshes.replicated(mesh),
        )
        self._keys = picture_keys(SEED, config.resolution, self._size * self._batches)

    def __call__(self, state: TrainState, frozen: Params) -> dict[str, float]:
        """`eval_loss_ema` and `eval_loss_raw`."""
        totals = []
        batches = itertools.islice(self._dataset, self._batches)
        for batch, keys in zip(batches, self._keys.reshape(self._batches, -1), strict=True):
            batch = meshes.global_batch(batch, self._mesh)
            totals.append([self._totals(p, frozen, batch, keys) for p in (state.ema, state.params)])
        (ema, raw), (pictures, _) = np.sum(jax.device_get(totals), 0, np.float64).T
        mean = lambda total: float(total / pictures) if pictures else math.nan  # noqa: E731
        return {"eval_loss_ema": mean(ema), "eval_loss_raw": mean(raw)}


def _totals(
    objective: Objective,
    config: StageConfig,
    networks: Networks,
    params: Params,
    frozen: Params,
    batch: Batch,
    keys: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Summed loss of a batch's pictures, and their number."""
    losses, _ = objective(config, networks, params, frozen, batch, keys)
    return jnp.sum(batch["weight"] * losses), jnp.sum(batch["weight"])
