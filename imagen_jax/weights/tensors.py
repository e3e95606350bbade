"""Nested parameters as one flat `.safetensors` file, and back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from imagen_jax.errors import UsageError, reason
from imagen_jax.files import replacing
from imagen_jax.network_config import Dtype
from imagen_jax.stage import Params


def write_tensors(path: Path, params: Params, dtype: Dtype, metadata: dict[str, str]) -> None:
    """Writes parameters as `dtype` under their module paths ("unet.conv_in.kernel").

    The file appears whole or not at all.

    Raises:
        UsageError: it cannot be written, and why.
    """
    tensors = {
        ".".join(map(str, name)): np.asarray(x).astype(jnp.dtype(dtype))
        for name, x in flatten_dict(params).items()
    }
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            safetensors.numpy.save_file(tensors, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:  # Its own, of a full disk too.
            raise OSError(reason(error)) from error
        temporary.chmod(mode)  # Its own files only their owner may read.


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors as float32.

    Raises:
        UsageError: no such file, not safetensors, or cut short.
    """
    with _opened(path) as file:
        names = list(file.keys())
        return {name: file.get_tensor(name).astype(np.float32) for name in names}


def read_metadata(path: Path) -> dict[str, str]:
    """Of the header; no tensor is read. Raises as `read_tensors` does."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[safetensors.safe_open]:
    if not path.is_file():
        raise UsageError(f"{path} does not exist or is not a file.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"{path} is not a safetensors file or is cut short ({error}).") from error


def nest(tensors: dict[str, np.ndarray], abstract: Params, path: Path) -> Params:
    """The tensors as parameters of the structure of `abstract`.

    Raises:
        UsageError: a name is missing or left over, or a shape differs; `path` is named.
    """
    wanted = {".".join(map(str, key)): (key, x.shape) for key, x in flatten_dict(abstract).items()}
    different = sorted(wanted.keys() ^ tensors.keys())
    if different:
        raise UsageError(
            f"{path} does not fit its config: {len(different)} tensors are missing or left "
            f"over, such as {different[0]}."
        )
    for name, (_, shape) in wanted.items():
        if tensors[name].shape != shape:
            raise UsageError(
                f"{path}: {name} has shape {tensors[name].shape}; its config says {shape}."
            )
    return unflatten_dict({wanted[name][0]: jnp.asarray(x) for name, x in tensors.items()})
