"""A stage to hold: its weights are read once and its sampler is compiled once."""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, UInt8

from imagen_jax.arrays import Keys
from imagen_jax.conditions import Conditions
from imagen_jax.config import SamplingConfig, StageConfig
from imagen_jax.config.conditions import LOW_RES
from imagen_jax.diffusion.noise import NoiseKeys
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.editing import StageEdit
from imagen_jax.pipeline.given import Noise
from imagen_jax.pipeline.memory import (
    bytes_a_device,
    device_memory,
    gathers_once,
    networks_of_steps,
)
from imagen_jax.pipeline.plan import Plan, plan_sampling
from imagen_jax.pipeline.prompts import HostNullText
from imagen_jax.pipeline.sampling import OnEstimate, OnStep, Positive, Run, StepwiseSampler
from imagen_jax.pipeline.word_weights import make_word_weights
from imagen_jax.stored.stages import StoredStage
from imagen_jax.weights.tensors import digest

_MOST_SAMPLERS = 16
"""Compiled ones that a stage holds; who asks for ever others must not fill the memory."""
_MANY_PIXELS = 2**22
"""Of a batch; where there are more, the compiled step is asked first what it takes."""
Painted = tuple[UInt8[np.ndarray, "batch height width 3"], Bool[np.ndarray, " batch"]]
"""Pictures, and whether each of them is finite."""


@contextlib.contextmanager
def _fitting(what: str) -> Iterator[None]:
    """Says in a sentence that `what` does not fit into the devices' memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(_too_large(what)) from error


def _too_large(what: str) -> str:
    return (
        f"{what} at once do not fit into the memory of the devices; a smaller batch size or a "
        "smaller size needs less."
    )


class Stage:
    """One trained stage on a mesh of devices.

    Attributes:
        stored: where it is kept, and its config.
        mesh: of the devices that it runs on.
    """

    def __init__(self, stored: StoredStage, mesh: Mesh, held: int = 0):
        """Reads no weights yet.

        Args:
            held: bytes of each device that networks take while this one paints, itself among them;
                0 where it is alone.
        """
        self.stored, self.mesh, self._held = stored, mesh, held
        self._lock = threading.Lock()  # Two threads may paint by one stage.
        self._params: Params | None = None
        self._sha256: str | None = None
        self._samplers: dict[tuple[Plan, tuple[int, int]], Callable] = {}
        self._weighers: dict[tuple[int, int], Callable] = {}
        # Large batches that were painted.
        self._known_to_fit: set[tuple] = set()

    @property
    def config(self) -> StageConfig:
        """What it was trained with."""
        return self.stored.config

    @property
    def params(self) -> Params:
        """The U-Net's parameters, read from where they are kept when they are first asked for.

        Raises:
            UsageError: a file is damaged, or a number is not finite.
        """
        with self._lock:
            params = self._params
            if params is None:
                params = self._params = {"unet": self.stored.unet.load(self.mesh)}
        return params  # Another thread may have released the attribute.

    @property
    def unet_sha256(self) -> str:
        """The digest of the U-Net's weights."""
        if self._sha256 is None:
            self._sha256 = digest(self.params["unet"])
        return self._sha256

    def release(self) -> None:
        """Frees the devices' memory: weights are read again when needed, nothing compiles anew."""
        self._params = None

    def paint(
        self,
        settings: SamplingConfig,
        keys: NoiseKeys,
        conditions: Conditions,
        null: HostNullText | None = None,
        noise: Noise | None = None,
        *,
        positive: Positive | None = None,
        size: tuple[int, int] | None = None,
        edit: StageEdit | None = None,
        tile: int | None = None,
        on_step: OnStep | None = None,
        on_estimate: OnEstimate | None = None,
    ) -> Painted:
        """One batch of pictures, on the host.

        Only another batch size, size, sampler, number of steps or kind of thresholding, and
        guidance where there was none, or another course of an edit, compile anew; all other
        settings are traced.

        Args:
            settings: of the sampling.
            keys, conditions, null, noise, positive: as `sampling.Run.begin` takes them; the
                number of pictures divides over the devices.
            size: (height, width); None for what the stage was trained on.
            edit: of a picture as large; what stays of it is not put back yet.
            tile: side of the tiles that pictures are denoised by; None takes them whole.
            on_step, on_estimate: as `sampling.StepwiseSampler` takes them.

        Raises:
            UsageError: they do not fit into the devices' memory.
        """
        size = size or (self.config.resolution, self.config.resolution)
        plan, numbers = plan_sampling(self.config, settings, size, edit and edit.course, tile)
        *rows, noise = meshes.place_rows((keys, conditions, noise), self.mesh)
        sample = self._sampler(plan, size)
        what = f"{len(keys)} pictures of {size[0]}x{size[1]} pixels"
        with _fitting(what):
            source = edit and edit.source(conditions.pictures.get(LOW_RES))
            inputs = (*rows, null, noise, source, positive)
            told = {"on_step": on_step, "on_estimate": on_estimate}
            large = len(keys) * math.prod(size) > _MANY_PIXELS
            batch = (plan, size, len(keys), positive is not None)
            if large and self._on_host and batch not in self._known_to_fit:
                told["check_bytes"] = functools.partial(self._check_bytes, what)
            painted = meshes.to_host(sample(self.params, numbers, *inputs, **told))
        if large:
            self._known_to_fit.add(batch)
        return painted

    def word_weights(
        self,
        pixels: UInt8[np.ndarray, "batch height width 3"],
        keys: Keys,
        conditions: Conditions,
        time: float,
        aug_level: float,
    ) -> list[Float[np.ndarray, "batch _ _ length"]]:
        """How much each place of pictures attends to each token, of every attention over text.

        Args:
            pixels: pictures, which are noised to `time`.
            keys: of the noise.
            conditions: as `paint` takes them.
            time: from 0, the picture, to 1, noise.
            aug_level: of the low-resolution picture.
        """
        size = pixels.shape[1:3]
        if size not in self._weighers:
            self._weighers[size] = make_word_weights(self.config, self.mesh, size)
        rows = meshes.place_rows((pixels, keys, conditions), self.mesh)
        return meshes.to_host(self._weighers[size](self.params, *rows, time, aug_level))

    def _sampler(self, plan: Plan, size: tuple[int, int]) -> Callable:
        with self._lock:
            sampler = self._samplers.pop((plan, size), None) or self._new_sampler(plan, size)
            self._samplers[plan, size] = sampler  # The latest is the last.
            if len(self._samplers) > _MOST_SAMPLERS:
                del self._samplers[next(iter(self._samplers))]
        return sampler

    @property
    def _on_host(self) -> bool:
        """Whether it runs on CPUs: a process that takes more than their memory is killed."""
        return self.mesh.devices.flat[0].platform == "cpu"

    def _check_bytes(self, what: str, needed: int) -> None:
        if needed > device_memory(self.mesh):
            raise UsageError(_too_large(what))

    def _new_sampler(self, plan: Plan, size: tuple[int, int]) -> Callable:
        is_base = self.config.low_resolution is None
        sharding = meshes.batch_sharding if is_base else meshes.picture_sharding
        gathered = self._gathers_once(size)
        networks = networks_of_steps(self.config, self.mesh, gathered)
        run = Run(self.config, plan, networks, size, sharding(self.mesh))
        return StepwiseSampler(run, networks.gathered if gathered else None)

    def _gathers_once(self, size: tuple[int, int]) -> bool:
        unet = self.stored.unet.abstract
        held = max(self._held, bytes_a_device(unet, self.mesh))
        enlargement = math.prod(size) / self.config.resolution**2
        return gathers_once(unet, self.mesh, held, enlargement)
