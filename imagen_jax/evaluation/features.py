"""Networks that pictures are measured by, with their weights on the devices of one process.

Every process has the whole network and reads pictures of its own, so that none waits for another.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from imagen_jax.config.choices import FeatureName
from imagen_jax.config.encoders import CLIP_PRESETS, CLIPConfig, DINOv2Config
from imagen_jax.evaluation.reading import Reading, Resized
from imagen_jax.models.clip import CLIP
from imagen_jax.models.dinov2 import DINOv2
from imagen_jax.models.inception import FEATURES, Inception
from imagen_jax.networks import Params
from imagen_jax.parallel import mesh as meshes
from imagen_jax.weights.clip_names import load_clip
from imagen_jax.weights.dinov2_names import load_dinov2
from imagen_jax.weights.inception_names import load_inception
from imagen_jax.weights.tensors import digest

Features = Float[np.ndarray, "pictures features"]
Pixels = Float[Array, "batch side side 3"]
Made = Float[Array, "batch features"]
Run = Callable[[Params, Pixels], Made]
Channels = tuple[float, float, float]

_INCEPTION_SIDE = 299
_DINOV2_SIDE = 224
"""Of FD-DINOv2 (Stein et al. 2023), though its position embeddings are made for 518 pixels."""
# Means and deviations of channels from 0 to 1 that each network was trained with.
CLIP_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network that makes features of pictures.

    Attributes:
        name: which.
        reading: how pictures come to its size.
        width: how many features it makes of a picture.
        weights: SHA-256 over its parameters.
    """

    name: FeatureName
    reading: Reading
    width: int
    weights: str
    mesh: Mesh
    params: Params
    _run: Run

    @property
    def recipe(self) -> dict[str, Any]:
        """What must be the same of two sets that are compared."""
        return {
            "network": self.name,
            "weights": self.weights,
            "reading": dataclasses.asdict(self.reading),
            "width": self.width,
        }

    def __call__(self, pictures: Iterable[Resized], batch_size: int) -> Iterator[Features]:
        """Features of pictures as `reading` gives them, some pictures at a time, float32.

        Every picture is read once and in order, those of the last batch too, which is filled up
        with black ones and cut.

        Args:
            batch_size: rounded up to a multiple of the devices.
        """
        parts = meshes.batch_parts(self.mesh)
        size = -(-batch_size // parts) * parts
        batch: list[Resized] = []
        for picture in pictures:
            batch.append(picture)
            if len(batch) == size:
                yield self._features(batch, size)
                batch = []
        if batch:
            yield self._features(batch, size)

    def _features(self, pictures: list[Resized], size: int) -> Features:
        filled = np.zeros((size, *pictures[0].shape), np.float32)
        filled[: len(pictures)] = pictures
        placed = jax.device_put(filled, meshes.batch_sharding(self.mesh))
        return np.asarray(self._run(self.params, placed))[: len(pictures)]


def open_network(name: FeatureName, weights: Path, mesh: Mesh, reading: Reading) -> FeatureNetwork:
    """The network called `name` with its weights.

    Args:
        weights: for inception the published file, or what `convert inception` wrote; for clip and
            dinov2 a directory of Hugging Face.
        mesh: of devices of this process.
        reading: how pictures come to the network's size, which it need not say.

    Raises:
        UsageError: no such weights, damaged ones, or those of another network.
    """
    form, params = _OPEN[name](weights, mesh)
    return FeatureNetwork(
        name=name,
        reading=dataclasses.replace(reading, side=form.side),
        width=form.width,
        weights=digest(params),
        mesh=mesh,
        params=params,
        _run=_compiled(form, mesh),
    )


def abstract_call(
    name: FeatureName, batch_size: int, mesh: Mesh
) -> tuple[Callable, tuple[Params, jax.ShapeDtypeStruct]]:
    """What `FeatureNetwork` runs, of the published size, and abstract arguments on a mesh.

    Args:
        batch_size: rounded up to a multiple of the devices.
    """
    form = _PUBLISHED[name]
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(form.make), nnx.Param))
    params = meshes.with_shardings(params, meshes.parameter_shardings(params, mesh))
    count = meshes.batch_starts(batch_size, batch_size, mesh).step
    pictures = jax.ShapeDtypeStruct(
        (count, form.side, form.side, 3), np.float32, sharding=meshes.batch_sharding(mesh)
    )
    return _compiled(form, mesh), (params, pictures)


@dataclasses.dataclass(frozen=True)
class _Form:
    """A network without its weights.

    Attributes:
        make: makes the module.
        call: of the module, what makes features.
        side: pixels of the pictures that it reads.
        spread: mean and deviation that its pictures are brought to.
    """

    make: Callable[[], nnx.Module]
    call: Callable[..., Made]
    side: int
    width: int
    spread: tuple[Channels, Channels]


_INCEPTION = _Form(
    lambda: Inception(rngs=nnx.Rngs(0)), Inception.__call__, _INCEPTION_SIDE, FEATURES, _HALVES
)


def _clip(config: CLIPConfig) -> _Form:
    make = lambda: CLIP(config, rngs=nnx.Rngs(0))  # noqa: E731
    return _Form(make, CLIP.embed_pictures, config.vision.side, config.embedding, CLIP_SPREAD)


def _dinov2(config: DINOv2Config) -> _Form:
    make = lambda: DINOv2(config, rngs=nnx.Rngs(0))  # noqa: E731
    return _Form(make, DINOv2.__call__, _DINOV2_SIDE, config.width, _IMAGENET)


def _open_inception(path: Path, mesh: Mesh) -> tuple[_Form, Params]:
    return _INCEPTION, load_inception(path, mesh)


def _open_clip(path: Path, mesh: Mesh) -> tuple[_Form, Params]:
    config, params = load_clip(path, mesh)
    return _clip(config), params


def _open_dinov2(path: Path, mesh: Mesh) -> tuple[_Form, Params]:
    config, params = load_dinov2(path, mesh)
    return _dinov2(config), params


_OPEN: dict[FeatureName, Callable[[Path, Mesh], tuple[_Form, Params]]] = {
    "inception": _open_inception,
    "clip": _open_clip,
    "dinov2": _open_dinov2,
}
_PUBLISHED: dict[FeatureName, _Form] = {
    "inception": _INCEPTION,
    "clip": _clip(CLIP_PRESETS["l14_336"]),
    "dinov2": _dinov2(DINOv2Config()),
}
"""Those that published figures are of."""


def _compiled(form: _Form, mesh: Mesh) -> Run:
    """(parameters, pictures from 0 to 255) -> features."""
    graph = nnx.graphdef(nnx.eval_shape(form.make))
    gather = functools.partial(meshes.gather_parameters, mesh=mesh, dtype="float32")
    mean, deviation = (np.array(values, np.float32) for values in form.spread)

    def run(params: Params, pictures: Pixels) -> Made:
        # Accelerators would multiply in bfloat16, and figures would depend on which one it is.
        with jax.default_matmul_precision("highest"):
            network, x = nnx.merge(graph, params), (pictures / 255 - mean) / deviation
            return form.call(network, x, gather=gather)

    return jax.jit(run, out_shardings=meshes.batch_sharding(mesh))
