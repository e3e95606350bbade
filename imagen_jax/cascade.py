"""The cascade: embedded prompts through base and super-resolution stages, one after another."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from imagen_jax.config import MeshConfig, SamplingConfig
from imagen_jax.errors import UsageError
from imagen_jax.loading import StoredStage
from imagen_jax.parallel import mesh as meshes
from imagen_jax.prompts import PromptEmbeddings
from imagen_jax.sampling import make_sampler, picture_keys, plan_sampling
from imagen_jax.shipped import STAGES, shipped_stage
from imagen_jax.stage import Params, build_networks
from imagen_jax.weights.tensors import digest


def shipped_stages() -> list[Path]:
    """The files of the shipped cascade, from the base up."""
    return [shipped_stage(name) for name in STAGES]


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage of a cascade with the settings that it samples with."""

    stage: StoredStage
    settings: SamplingConfig

    @property
    def side(self) -> int:
        return self.stage.config.resolution


@dataclasses.dataclass(frozen=True)
class Painted:
    """What a stage made.

    Attributes:
        pictures: uint8 (prompts * num_images, side, side, 3).
        unet_sha256: of the weights of its U-Net.
    """

    pictures: np.ndarray
    unet_sha256: str


class Keeper:
    """Where the pictures of stage after stage are kept as they come; this one keeps none."""

    def begin(self, unet_sha256: str) -> None:
        """The next stage begins, with these weights; a UsageError if it may not."""

    def find(self, rows: range) -> np.ndarray | None:
        """Pictures of the stage that need not be painted; None if one of them is not there."""

    def keep(self, rows: range, pictures: np.ndarray) -> None:
        """Takes pictures that were painted."""


def check_order(steps: Sequence[Step], mesh: Mesh) -> None:
    """Raises a UsageError unless each stage takes what the one before paints, in whole rows."""
    side = None
    for step in steps:
        config = step.stage.config
        if config.low_resolution != side:
            takes = (
                f"{config.low_resolution}-pixel pictures" if config.low_resolution else "no picture"
            )
            paints = f"the stage before paints {side} pixels" if side else "it comes first"
            raise UsageError(f"{step.stage.origin} ({config.name}) takes {takes}, but {paints}.")
        if config.low_resolution is not None:
            meshes.check_height(config.low_resolution, mesh)
        side = config.resolution


def paint(
    steps: Sequence[Step],
    texts: Sequence[PromptEmbeddings],
    *,
    seed: int,
    num_images: int,
    batch_size: int,
    mesh: Mesh | None = None,
    on_step: Callable | None = None,
    keeper: Keeper = Keeper(),  # noqa: B008
) -> Iterator[Painted]:
    """What each stage paints, in turn; the U-Net of one is gone before the next is loaded.

    The pictures of one prompt stand together. Picture i of a prompt depends on the prompt, the
    seed and i alone: neither on the other prompts nor on `batch_size` or the devices.

    Args:
        steps: from the base up, in the order that `check_order` accepts.
        texts: the prompts as each stage reads them.
        batch_size: pictures at once, as `meshes.batch_starts` rounds it.
        mesh: None for all devices, each with pictures of its own. Where it has a `spatial`
            axis, super-resolution stages split the height of a picture over that.
        on_step: called with the step's index after every denoising step of every batch, and as
            often for a batch that the keeper had.
        keeper: is given the pictures of each batch, and asked for them before. A batch is painted
            whole or not at all, so that its pictures are the same to the byte.

    Raises:
        UsageError: weights are damaged, or a picture is not finite; those of the batches before are
            with the keeper.
    """
    mesh = meshes.make_mesh(MeshConfig()) if mesh is None else mesh
    pictures = None
    for step, text in zip(steps, texts, strict=True):
        stage = _Stage(step, text, pictures, seed, num_images, batch_size, mesh)
        painted = _paint_stage(stage, on_step, keeper)
        yield painted
        pictures = painted.pictures


@dataclasses.dataclass(frozen=True)
class _Stage:
    """What the pictures of a stage are painted from, with `paint`'s names."""

    step: Step
    text: PromptEmbeddings
    low_res: np.ndarray | None
    seed: int
    num_images: int
    batch_size: int
    mesh: Mesh


def _paint_stage(stage: _Stage, on_step: Callable | None, keeper: Keeper) -> Painted:
    """All pictures of one stage; its parameters live no longer than this call."""
    params = {"unet": stage.step.stage.unet.load(stage.mesh)}
    sha256 = digest(params["unet"])
    keeper.begin(sha256)
    paint_batch = _batch_painter(stage, params, on_step)
    total, batches = len(stage.text.text) * stage.num_images, []
    starts = meshes.batch_starts(total, stage.batch_size, stage.mesh)
    for first in starts:
        rows = range(first, min(first + starts.step, total))
        pictures = keeper.find(rows)
        if pictures is None:
            pictures = paint_batch(np.arange(first, first + starts.step) % total)[: len(rows)]
            keeper.keep(rows, pictures)
        elif on_step is not None:
            for index in range(stage.step.settings.num_steps):
                on_step(index)
        batches.append(pictures)
    jax.effects_barrier()  # Lets the last `on_step` run.
    return Painted(np.concatenate(batches), sha256)


def _batch_painter(
    stage: _Stage, params: Params, on_step: Callable | None
) -> Callable[[np.ndarray], np.ndarray]:
    """Rows, pictures counted over all prompts, -> these pictures."""
    step, text, mesh = stage.step, stage.text, stage.mesh
    config, rows = step.stage.config, meshes.batch_sharding(mesh)
    size = (step.side, step.side)
    plan, numbers = plan_sampling(config, step.settings, size)
    sample = make_sampler(
        config, plan,
        build_networks(config, functools.partial(meshes.gather_parameters, mesh=mesh)),
        size=size, on_step=on_step,
        sharding=rows if config.low_resolution is None else meshes.picture_sharding(mesh),
    )  # fmt: skip
    keys = picture_keys(stage.seed, step.side, stage.num_images)

    def paint_batch(pairs: np.ndarray) -> np.ndarray:
        prompt, picture = pairs // stage.num_images, pairs % stage.num_images
        low = None if stage.low_res is None else stage.low_res[pairs]
        inputs = jax.device_put((text.text[prompt], text.mask[prompt], keys[picture], low), rows)
        pictures, finite = jax.device_get(sample(params, numbers, *inputs, text.null))
        for bad in np.flatnonzero(~finite):
            raise UsageError(
                f"Picture {picture[bad]} of the prompt {text.prompts[prompt[bad]]!r} holds "
                f"numbers that are not finite after {step.stage.origin}; its weights or the "
                "settings of its sampling do not do."
            )
        return pictures

    return paint_batch
