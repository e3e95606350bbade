"""The cascade: prompts through base and super-resolution stages, each loaded from anywhere."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from imagen_jax.config import MeshConfig, SamplingConfig
from imagen_jax.errors import UsageError
from imagen_jax.loading import LoadedStage, load_stage_tokenizer
from imagen_jax.parallel import mesh as meshes
from imagen_jax.sampling import make_sampler, picture_keys
from imagen_jax.shipped import STAGES, shipped_stage
from imagen_jax.stage import Networks, Params, build_networks


def shipped_stages() -> list[Path]:
    """The files of the shipped cascade, from the base up."""
    return [shipped_stage(name) for name in STAGES]


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage of a cascade with the settings that it samples with."""

    stage: LoadedStage
    settings: SamplingConfig

    @property
    def side(self) -> int:
        return self.stage.config.resolution


def check_order(steps: Sequence[Step]) -> None:
    """Raises a UsageError unless each stage takes what the one before paints."""
    side = None
    for step in steps:
        config = step.stage.config
        if config.low_resolution != side:
            takes = (
                f"{config.low_resolution}-pixel pictures" if config.low_resolution else "no picture"
            )
            paints = f"the stage before paints {side} pixels" if side else "it comes first"
            raise UsageError(f"{step.stage.origin} ({config.name}) takes {takes}, but {paints}.")
        side = config.resolution


def check_prompts(steps: Sequence[Step], prompts: Sequence[str]) -> None:
    """Raises a UsageError for a prompt that some stage cannot read; warns of what is cut off."""
    for step in steps:
        config = step.stage.config
        load_stage_tokenizer(config)(prompts, config.text_encoder.max_length)


def digest(params: Params) -> str:
    """SHA-256 over the names, shapes and values of parameters."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        value = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {value.shape} {value.dtype} ".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()


def batch_starts(total: int, batch_size: int, mesh: jax.sharding.Mesh) -> range:
    """Number of the first picture of every batch; its step is the size of a batch.

    That size is `batch_size`, at most `total`, rounded up to a multiple of the parts of a batch.
    """
    parts = meshes.batch_parts(mesh)
    return range(0, total, -(-min(batch_size, total) // parts) * parts)


def paint(
    steps: Sequence[Step],
    prompts: Sequence[str],
    *,
    seed: int,
    num_images: int,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
    on_step: Callable | None = None,
) -> Iterator[np.ndarray]:
    """Pictures of each stage in turn, uint8 (prompts * num_images, side, side, 3).

    The pictures of one prompt stand together. Picture i of a prompt depends on the prompt, the
    seed and i alone: neither on the other prompts nor on `batch_size` or the devices.

    Args:
        steps: from the base up, in the order that `check_order` accepts.
        batch_size: pictures at once, as `batch_starts` rounds it.
        mesh: None for all devices, each with pictures of its own. Where it has a `spatial`
            axis, super-resolution stages split the height of a picture over that.
        on_step: called with the step's index after every denoising step of every batch.
    """
    mesh = meshes.make_mesh(MeshConfig()) if mesh is None else mesh
    total = len(prompts) * num_images
    starts = batch_starts(total, batch_size, mesh)
    pictures = None
    for step in steps:
        painter = _StagePainter(step, mesh, prompts, seed, num_images, on_step)
        batches = [
            painter(np.arange(first, first + starts.step) % total, pictures) for first in starts
        ]
        jax.effects_barrier()  # Lets the last `on_step` run.
        pictures = np.concatenate(batches)[:total]
        yield pictures


class _StagePainter:
    """Paints any of the (prompt, picture) pairs with one stage."""

    def __init__(self, step: Step, mesh, prompts, seed: int, num_images: int, on_step):
        config = step.stage.config
        networks = build_networks(config, functools.partial(meshes.gather_parameters, mesh=mesh))
        sharding = meshes.parameter_shardings(step.stage.params, mesh)
        params = jax.device_put(step.stage.params, sharding)
        self._num_images = num_images
        self._batch_sharding = pictures = meshes.batch_sharding(mesh)
        if config.low_resolution is not None:
            meshes.check_height(config.low_resolution, mesh)
            pictures = meshes.picture_sharding(mesh)
        self._text, self._mask = embed_prompts(step.stage, networks, params, prompts)
        self._params = {"unet": params["unet"]}  # The encoder's memory is free again.
        self._keys = picture_keys(seed, step.side, num_images)
        size = (step.side, step.side)
        self._sample = make_sampler(
            config, step.settings, networks, size=size, sharding=pictures, on_step=on_step
        )

    def __call__(self, pairs: np.ndarray, low_res: np.ndarray | None) -> np.ndarray:
        prompt, picture = pairs // self._num_images, pairs % self._num_images
        inputs = (self._text[prompt], self._mask[prompt], self._keys[picture])
        if low_res is not None:
            low_res = low_res[pairs]
        inputs = jax.device_put((*inputs, low_res), self._batch_sharding)
        return np.asarray(self._sample(self._params, *inputs))


def embed_prompts(
    stage: LoadedStage, networks: Networks, params: Params, prompts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (prompts, length, width) and mask of a stage's own text encoder."""
    length = stage.config.text_encoder.max_length
    token_ids, mask = load_stage_tokenizer(stage.config)(prompts, length)
    return np.asarray(jax.jit(networks.embed)(params, token_ids, mask)), mask
