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
from imagen_jax.stage import build_networks
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
        on_step: called with the step's index after every denoising step of every batch.
    """
    mesh = meshes.make_mesh(MeshConfig()) if mesh is None else mesh
    pictures = None
    for step, text in zip(steps, texts, strict=True):
        painted = _paint_stage(step, text, pictures, seed, num_images, batch_size, mesh, on_step)
        yield painted
        pictures = painted.pictures


def _paint_stage(
    step: Step, text: PromptEmbeddings, low_res: np.ndarray | None, seed: int, num_images: int,
    batch_size: int, mesh: Mesh, on_step: Callable | None,
) -> Painted:  # fmt: skip
    """All pictures of one stage; its parameters live no longer than this call."""
    config = step.stage.config
    params = {"unet": step.stage.unet.load(mesh)}
    rows = meshes.batch_sharding(mesh)
    size = (step.side, step.side)
    plan, numbers = plan_sampling(config, step.settings, size)
    sample = make_sampler(
        config, plan,
        build_networks(config, functools.partial(meshes.gather_parameters, mesh=mesh)),
        size=size, on_step=on_step,
        sharding=rows if config.low_resolution is None else meshes.picture_sharding(mesh),
    )  # fmt: skip
    keys = picture_keys(seed, step.side, num_images)
    total = len(text.text) * num_images
    starts = meshes.batch_starts(total, batch_size, mesh)

    def batch(first: int) -> np.ndarray:
        pairs = np.arange(first, first + starts.step) % total
        prompt, picture = pairs // num_images, pairs % num_images
        low = None if low_res is None else low_res[pairs]
        inputs = jax.device_put((text.text[prompt], text.mask[prompt], keys[picture], low), rows)
        return np.asarray(sample(params, numbers, *inputs, text.null))

    batches = [batch(first) for first in starts]
    jax.effects_barrier()  # Lets the last `on_step` run.
    return Painted(np.concatenate(batches)[:total], digest(params["unet"]))
