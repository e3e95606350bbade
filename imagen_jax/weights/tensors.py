"""Nested parameters as one flat `.safetensors` file, and back."""

import hashlib
import io
import itertools
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from imagen_jax.config.choices import Dtype
from imagen_jax.networks import Params
from imagen_jax.parallel.mesh import parameter_shardings, to_host
from imagen_jax.storage.files import AnyPath, replacing
from imagen_jax.weights.stored import Stored, StoredTensor, check_fit, place, require_finite
from imagen_jax.weights.sums import Shapes, checksum, with_sums

ParamPath = tuple[str | int, ...]
"""Of a parameter in nested dicts."""
StoredParams = dict[ParamPath, StoredTensor]
"""Parameters of a network, or of several, that stay in their files until they are wanted."""
_FORMAT_NAMES = {"float32": "F32", "bfloat16": "BF16"}
_CORNER = 8


def write_tensors(path: AnyPath, params: Params, dtype: Dtype, about: dict[str, str]) -> None:
    """Writes parameters as `dtype` under their module paths ("unet.conv_in.kernel").

    The file appears whole or not at all. Of parameters that are `Stored` one at a time is read.

    Args:
        about: what the header says of the file, beside the sums of what is in it.

    Raises:
        UsageError: it cannot be written, and why; or a number is not finite.
    """
    with replacing(path) as temporary:
        if isinstance(temporary, Path):
            with temporary.open("wb") as file:
                _write(file, params, dtype, about)
            return
        # In a file of a bucket nothing can be written once what follows is.
        with tempfile.TemporaryFile() as file, temporary.open("wb") as copy:
            _write(file, params, dtype, about)
            file.seek(0)
            shutil.copyfileobj(file, copy)


def _write(file: io.IOBase, params: Params, dtype: Dtype, about: dict[str, str]) -> None:
    """The safetensors format: the header's length, the header in JSON, the tensors.

    The library's own writer wants all tensors in memory at once. The sums in the header are those
    of nothing until the tensors are written.
    """
    tensors = {_dotted(name): x for name, x in flatten_dict(params).items()}
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    sums = dict.fromkeys(tensors, checksum(b""))
    file.write(_header(shapes, dtype, with_sums(about, shapes, sums)))
    for name, x in tensors.items():
        value = on_host(x, dtype)
        require_finite(value, name)
        data = value.reshape(-1).view(np.uint8)
        sums[name] = checksum(data)
        file.write(data)
    file.seek(0)
    file.write(_header(shapes, dtype, with_sums(about, shapes, sums)))


def _header(shapes: Shapes, dtype: Dtype, metadata: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * jnp.dtype(dtype).itemsize
        header[name] = {
            "dtype": _FORMAT_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # Tensors begin at multiples of eight bytes.
    return len(text).to_bytes(8, "little") + text


def on_host(x: jax.Array | np.ndarray | Stored, dtype: Dtype) -> np.ndarray:
    """A parameter as an array of this type, wherever it is."""
    if isinstance(x, Stored):
        return x.whole(dtype)
    return np.ascontiguousarray(np.asarray(x).astype(jnp.dtype(dtype), copy=False))


def fit_params(tensors: dict[str, StoredTensor], abstract: Params, origin: AnyPath) -> StoredParams:
    """The tensors of a file that `write_tensors` wrote, as the parameters `abstract`.

    Raises:
        UsageError: a name is missing or left over, or a shape differs; `origin` is named.
    """
    shapes = {path: x.shape for path, x in flatten_dict(abstract).items()}
    check_fit(tensors, {_dotted(path): shape for path, shape in shapes.items()}, origin)
    return {path: tensors[_dotted(path)] for path in shapes}


def place_params(stored: StoredParams, abstract: Params, mesh: Mesh) -> Params:
    """Reads parameters one after another, each into its shards on the mesh and as `abstract` says.

    The host never holds more than the largest beside what its own devices hold. Each is held
    against its sum by one of the processes.

    Raises:
        UsageError: a file is damaged or cannot be read, or a number is not finite.
    """
    shardings = flatten_dict(parameter_shardings(abstract, mesh))
    turn = itertools.cycle(range(jax.process_count()))
    return unflatten_dict(
        {
            path: place(
                stored[path], x.dtype.name, shardings[path], check=next(turn) == jax.process_index()
            )
            for path, x in flatten_dict(abstract).items()
        }
    )


def digest(params: Params) -> str:
    """SHA-256 over the names, shapes, dtypes and values of parameters."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        value = to_host(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {value.shape} {value.dtype} ".encode())
        sha.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return sha.hexdigest()


def fingerprint(params: dict[ParamPath, jax.Array | StoredTensor]) -> str:
    """SHA-256 over names, shapes and a corner of every parameter, rounded to bfloat16.

    It is cheap, of arrays and of what is still in its files alike, and the same in either dtype.
    All processes that share arrays must call it.
    """
    sha = hashlib.sha256()
    for name, x in sorted((_dotted(path), x) for path, x in params.items()):
        index = tuple(slice(0, _CORNER) for _ in x.shape)
        corner = x.part(index, "bfloat16") if isinstance(x, StoredTensor) else to_host(x[index])
        sha.update(f"{name} {tuple(x.shape)} ".encode() + on_host(corner, "bfloat16").tobytes())
    return sha.hexdigest()


def _dotted(path: ParamPath) -> str:
    return ".".join(map(str, path))
