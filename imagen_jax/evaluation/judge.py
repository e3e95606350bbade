"""The judge: a small classifier that says which emoji a picture shows and in which style.

It is trained on true pictures alone (`tools/train_judge.py`) and shares nothing with the networks
whose pictures it judges. Its features are what `distances` compares.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float, UInt8
from PIL import Image

from imagen_jax.arrays import Images
from imagen_jax.errors import UsageError
from imagen_jax.models.layers import GroupNorm, conv, linear
from imagen_jax.networks import Params
from imagen_jax.pipeline.shipped import PRETRAINED
from imagen_jax.storage.files import AnyPath
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.tensors import digest, fit_params, write_tensors

SHIPPED = PRETRAINED / "judge.safetensors"
SIDE = 64
"""Of the pictures that it reads."""
SMALLEST = 32
"""Side of the pictures that are enlarged for it; it names all true ones of this side."""
FEATURES = 256
_CHANNELS = (
    (3, 24, 2),
    (24, 48, 2),
    (48, 48, 1),
    (48, 96, 2),
    (96, 96, 1),
    (96, 192, 2),
    (192, FEATURES, 1),
)
"""Inputs, outputs and stride of each convolution."""
_GROUPS = 8
_FORMAT = "imagen-jax judge 1"
_BATCH = 16

Features = Float[Array, "batch features"]
Logits = Float[Array, "batch _"]


class JudgeNetwork(nnx.Module):
    """Convolution, GroupNorm and swish seven times, the mean over positions, two linear heads."""

    def __init__(self, concepts: int, styles: int, *, rngs: nnx.Rngs):
        kwargs = {"dtype": "float32", "rngs": rngs}
        self.convs = nnx.List([conv(i, o, stride=s, **kwargs) for i, o, s in _CHANNELS])
        self.norms = nnx.List([GroupNorm(o, groups=_GROUPS, rngs=rngs) for _, o, _ in _CHANNELS])
        self.concept = linear(FEATURES, concepts, **kwargs)
        self.style = linear(FEATURES, styles, **kwargs)

    def features(self, images: Images) -> Features:
        """The features of pictures of `SIDE` pixels in [-1, 1]."""
        x = images
        for convolution, norm in zip(self.convs, self.norms, strict=True):
            x = norm(convolution(x), activation=nnx.silu)
        return x.mean((1, 2))

    def __call__(self, images: Images) -> tuple[Features, Logits, Logits]:
        """Features, and the logits of the concepts and of the styles."""
        features = self.features(images)
        return features, self.concept(features), self.style(features)


@dataclasses.dataclass(frozen=True)
class Opinions:
    """What the judge says of pictures.

    Attributes:
        features: (pictures, `FEATURES`).
        concepts: (pictures, concepts), log-probabilities.
        styles: (pictures, styles), log-probabilities.
    """

    features: Float[np.ndarray, "pictures features"]
    concepts: Float[np.ndarray, "pictures concepts"]
    styles: Float[np.ndarray, "pictures styles"]


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained judge.

    Attributes:
        concepts: keys (code points) of what it can name, in the order of its logits.
        styles: in the same way.
    """

    network: JudgeNetwork
    concepts: tuple[str, ...]
    styles: tuple[str, ...]

    def __call__(self, pictures: UInt8[np.ndarray, "pictures height width 3"]) -> Opinions:
        """Its opinions of pictures, which are brought to `SIDE` pixels: large ones by a box
        filter, those of `SMALLEST` by Lanczos's.

        Args:
            pictures: square, of `SMALLEST` pixels or of `SIDE` times a whole number.
        """
        small = pictures.shape[1] == SMALLEST
        fitted = box_reduced(_enlarged(pictures) if small else pictures, SIDE)
        starts = range(0, len(fitted), _BATCH)
        parts = [self._batch(fitted[first : first + _BATCH]) for first in starts]
        return Opinions(*map(np.concatenate, zip(*parts, strict=True)))

    def _batch(self, pictures: Float[np.ndarray, "batch side side 3"]) -> list[np.ndarray]:
        """One program serves all batches: a short one is filled up."""
        count = len(pictures)
        filled = np.resize(pictures / 127.5 - 1.0, (_BATCH, *pictures.shape[1:]))
        features, concepts, styles = _judge(self.network, filled.astype(np.float32))
        results = features, jax.nn.log_softmax(concepts), jax.nn.log_softmax(styles)
        return [np.asarray(x)[:count] for x in results]

    def params(self) -> Params:
        return nnx.to_pure_dict(nnx.state(self.network, nnx.Param))

    def digest(self) -> str:
        """SHA-256 of its weights."""
        return digest(self.params())


@nnx.jit
def _judge(network: JudgeNetwork, images: Images) -> tuple[Features, Logits, Logits]:
    return network(images)


def _enlarged(
    pictures: UInt8[np.ndarray, "pictures small small 3"],
) -> UInt8[np.ndarray, "pictures side side 3"]:
    """Pictures at `SIDE` pixels."""
    size, filtered = (SIDE, SIDE), Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(x).resize(size, filtered)) for x in pictures])


def box_reduced(
    pictures: UInt8[np.ndarray, "pictures height width 3"], side: int
) -> Float[np.ndarray, "pictures side side 3"]:
    """Square pictures as means over squares of pixels; the side must divide theirs."""
    count, height = pictures.shape[:2]
    factor = height // side
    shape = (count, side, factor, side, factor, 3)
    return pictures.reshape(shape).mean((2, 4), dtype=np.float32)


def save_judge(path: AnyPath, judge: Judge) -> None:
    """Writes a judge as one safetensors file whose header names concepts and styles.

    Raises:
        UsageError: it cannot be written, and why.
    """
    metadata = {
        "format": _FORMAT,
        "concepts": json.dumps(judge.concepts),
        "styles": json.dumps(judge.styles),
    }
    write_tensors(path, judge.params(), "bfloat16", metadata)


def load_judge(path: Path = SHIPPED) -> Judge:
    """The judge of a file.

    Raises:
        UsageError: no such file, damaged, or no judge.
    """
    header, tensors = open_file(path)
    if header.get("format") != _FORMAT:
        raise UsageError(f"{path} is not a judge: its header does not say {_FORMAT!r}.")
    concepts, styles = (tuple(json.loads(header[name])) for name in ("concepts", "styles"))
    sizes = len(concepts), len(styles)
    network = nnx.eval_shape(lambda: JudgeNetwork(*sizes, rngs=nnx.Rngs(0)))
    graph, abstract = nnx.split(network)
    stored = fit_params(tensors, nnx.to_pure_dict(abstract), path)
    params = unflatten_dict({name: jnp.asarray(x.whole("float32")) for name, x in stored.items()})
    return Judge(nnx.merge(graph, params), concepts, styles)
