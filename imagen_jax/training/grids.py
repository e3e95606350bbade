"""The sheet of pictures that a run paints now and then, always from the same noise."""

import dataclasses
import warnings
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imagen_jax.config import StageConfig
from imagen_jax.data.pipeline import ReadCaptions, make_dataset
from imagen_jax.data.records import Source
from imagen_jax.errors import UsageError
from imagen_jax.networks import Networks, Params
from imagen_jax.parallel import distributed
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.sampling import Run, StepwiseSampler, picture_keys
from imagen_jax.pipeline.sheets import grid

_PICTURES = 16
_COLUMNS = 4


class SampleGrid:
    """Paints `training.sample_prompts`, or what pictures of the training data say.

    A super-resolution sheet has three rows: input, sample, target. Where the stage is trained at
    several sizes all pictures have that of the data's first batch, prompts the first of the sizes.
    """

    def __init__(
        self,
        config: StageConfig,
        networks: Networks,
        read: ReadCaptions | None,
        source: Source,
        replicated: jax.sharding.Sharding,
    ):
        """`read`: of captions. `source`: of the training data. `replicated` lays an array on every
        device, so that every process has it.
        """
        self._config = config
        prompts = config.training.sample_prompts
        if _paints_prompts(config):
            self._batch, self._captions = read(prompts), prompts
        else:
            self._batch = _batch_of_data(config, read, source)
            self._captions = [f"class {label}" for label in self._batch.get("label", ())]
        shown = self._batch.get("image")
        size = config.training_sizes[0] if shown is None else shown.shape[1:3]
        plan, self._numbers = plan_sampling(config, config.sampling, size)
        self._sample = StepwiseSampler(Run(config, plan, networks, size, replicated))
        self._conditions = jax.jit(networks.conditions_of)
        self._gather = jax.jit(lambda x: x, out_shardings=replicated)

    def __call__(self, params: Params) -> tuple[Image.Image, dict[str, float]]:
        """The sheet and, for super-resolution, its `colour_drift`.

        `params` holds U-Net, text encoder and, where the stage has one, the "null_text".
        """
        batch = self._batch
        conditions, count = self._conditions(params, batch), len(next(iter(batch.values())))
        keys = picture_keys(self._config.training.seed, self._config.resolution, count)
        null = params.get("null_text")
        sampled = self._sample(params, self._numbers, keys, conditions, null)
        pictures, finite = jax.device_get(self._gather(sampled))
        if not finite.all() and distributed.leads():
            warnings.warn(
                f"{(~finite).sum()} of {len(finite)} sample pictures hold numbers that are not "
                "finite; they are black or grey.",
                stacklevel=2,
            )
        if self._config.low_resolution is not None:
            sheet = grid([list(batch["low_res"]), list(pictures), list(batch["image"])])
            return sheet, {"colour_drift": colour_drift(pictures, batch["low_res"])}
        captions = list(_rows(self._captions)) or None
        return grid(list(_rows(pictures)), captions, cell=2 * len(pictures[0])), {}


def colour_drift(
    pictures: UInt8[np.ndarray, "batch height width 3"],
    low_res: UInt8[np.ndarray, "batch low_height low_width 3"],
) -> float:
    """How far the mean colours of pictures are from those of what they were made of.

    Mean |difference| over pictures and channels, in units of 0..255.
    """
    return float(np.abs(pictures.mean((1, 2)) - low_res.mean((1, 2))).mean())


def _rows(items) -> Iterator[list]:
    for first in range(0, len(items), _COLUMNS):
        yield list(items[first : first + _COLUMNS])


def _paints_prompts(config: StageConfig) -> bool:
    """Whether prompts are all that the stage is told, and there are any."""
    inputs = config.inputs
    others = inputs.stacked or inputs.pictures or inputs.numbers or inputs.classes
    return inputs.text_width is not None and not others and bool(config.training.sample_prompts)


def _batch_of_data(
    config: StageConfig, read: ReadCaptions | None, source: Source
) -> dict[str, np.ndarray]:
    seed = config.training.seed
    # Threads: worker processes would be started for one batch.
    data = dataclasses.replace(config.data, num_workers=0, low_res_blur=0.0, low_res_blotches=0.0)
    config = dataclasses.replace(config, data=data)
    batch = next(iter(make_dataset(source, config, read, batch_size=_PICTURES, seed=seed)))
    good = batch["weight"] > 0
    if not good.any():
        raise UsageError(
            f"There is no sheet of samples: the {_PICTURES} records that it would be painted after "
            "are broken; mend them, or set training.sample_every to 0."
        )
    return {name: array[good] for name, array in batch.items()}
