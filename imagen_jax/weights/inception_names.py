"""The Inception-v3 of FID as it is published: names, conversion and loading.

The published file is PyTorch's, of before its zip archives; `convert_inception` writes it as
safetensors under the same names, which is what is read.
"""

from pathlib import Path

from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from imagen_jax.errors import UsageError
from imagen_jax.models.inception import FEATURES, Inception
from imagen_jax.networks import Params
from imagen_jax.storage.files import AnyPath
from imagen_jax.weights.hugging_face import Tensors
from imagen_jax.weights.named import Names, abstract_params, fit_named
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.tensors import StoredParams, fit_params, place_params, write_tensors
from imagen_jax.weights.torch_file import open_torch_file

_FORMAT = "imagen-jax inception 1"
_LEAVES = {
    "kernel": "conv.weight",
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}
_LEFT_OUT = ("fc.", "AuxLogits.")
_COUNTER = "num_batches_tracked"
_CLASSES = "fc.weight"
_CLASS_COUNT = 1008
_PUBLISHED = "pt_inception-2015-12-05-6726825d.pth"


def inception_names() -> Names:
    """The path in the parameters of `Inception` of each tensor that is read."""
    return {
        ".".join([*map(str, module), _LEAVES[str(leaf)]]): (*module, leaf)
        for *module, leaf in flatten_dict(_abstract())
    }


def load_inception(path: AnyPath, mesh: Mesh) -> Params:
    """The parameters in float32, as `mesh` shards parameters.

    Every process reads only what its own devices hold.

    Args:
        path: the published file or one that `convert_inception` wrote.

    Raises:
        UsageError: it is missing, damaged or of another network, or it is PyTorch's and PyTorch
            is not installed.
    """
    return place_params(_open(path), _abstract(), mesh)


def convert_inception(source: Path, out: Path) -> None:
    """Writes the features' part of the published file as safetensors, in float32.

    Raises:
        UsageError: as `load_inception`, or the file cannot be written.
    """
    stored = _open(source)
    write_tensors(out, unflatten_dict(stored), "float32", {"format": _FORMAT})


def _open(path: AnyPath) -> StoredParams:
    if path.suffix != ".safetensors":
        if not path.is_file():
            raise UsageError(
                f"{path} is no file; name {_PUBLISHED}, or what `convert inception` made of it."
            )
        return _fit(open_torch_file(path), path)
    header, tensors = open_file(path)
    if header.get("format") != _FORMAT:
        return _fit(tensors, path)
    return fit_params(tensors, _abstract(), path)


def _fit(tensors: Tensors, path: AnyPath) -> StoredParams:
    """The parameters from tensors under the published names."""
    classes = tensors.get(_CLASSES)
    if classes is not None and classes.stored_shape != (_CLASS_COUNT, FEATURES):
        raise UsageError(
            f"{path} tells {classes.stored_shape[0]} classes apart; the network of FID has "
            f"{_CLASS_COUNT}, as {_PUBLISHED}, and others' figures are not comparable."
        )
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(_LEFT_OUT) and not name.endswith(_COUNTER)
    }
    return fit_named(tensors, inception_names(), _abstract(), path)


def _abstract() -> Params:
    return abstract_params(lambda: Inception(rngs=nnx.Rngs(0)), "float32")
