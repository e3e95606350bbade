"""Nested parameters as one flat `.safetensors` file, and back."""

import hashlib
import io
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from imagen_jax.errors import UsageError
from imagen_jax.files import AnyPath, replacing
from imagen_jax.network_config import Dtype
from imagen_jax.parallel.mesh import to_host
from imagen_jax.stage import Params
from imagen_jax.weights.stored import Stored, check_names, opened

_FORMAT_NAMES = {"float32": "F32", "bfloat16": "BF16"}
_CORNER = 8


def write_tensors(path: AnyPath, params: Params, dtype: Dtype, metadata: dict[str, str]) -> None:
    """Writes parameters as `dtype` under their module paths ("unet.conv_in.kernel").

    The file appears whole or not at all. Of parameters that are `Stored` one at a time is read.

    Raises:
        UsageError: it cannot be written, and why.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        _write(file, params, dtype, metadata)


def _write(file: io.IOBase, params: Params, dtype: Dtype, metadata: dict[str, str]) -> None:
    """The safetensors format: the header's length, the header in JSON, the tensors.

    The library's own writer wants all tensors in memory at once.
    """
    tensors = {".".join(map(str, name)): x for name, x in flatten_dict(params).items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, x in tensors.items():
        start, end = end, end + math.prod(x.shape) * jnp.dtype(dtype).itemsize
        header[name] = {
            "dtype": _FORMAT_NAMES[dtype], "shape": list(x.shape), "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # Tensors begin at multiples of eight bytes.
    file.write(len(text).to_bytes(8, "little") + text)
    for x in tensors.values():
        file.write(_on_host(x, dtype).reshape(-1).view(np.uint8))


def _on_host(x: jax.Array | np.ndarray | Stored, dtype: Dtype) -> np.ndarray:
    if isinstance(x, Stored):
        return x.whole(dtype)
    return np.ascontiguousarray(np.asarray(x).astype(jnp.dtype(dtype), copy=False))


def fingerprint(params: Params) -> str:
    """SHA-256 over names, shapes and a corner of every parameter, rounded to bfloat16.

    It is cheap, wherever they lie, and the same in either dtype. All processes must call it.
    """
    sha = hashlib.sha256()
    for name, x in sorted((".".join(map(str, key)), x) for key, x in flatten_dict(params).items()):
        corner = to_host(x[tuple(slice(_CORNER) for _ in x.shape)])
        sha.update(f"{name} {x.shape} ".encode() + _on_host(corner, "bfloat16").tobytes())
    return sha.hexdigest()


def read_tensors(path: AnyPath) -> dict[str, np.ndarray]:
    """Tensors as float32.

    Raises:
        UsageError: no such file, not safetensors, or cut short.
    """
    with opened(path) as file:
        names = list(file.keys())
        return {name: file.get_tensor(name).astype(np.float32) for name in names}


def read_metadata(path: AnyPath) -> dict[str, str]:
    """Of the header; no tensor is read. Raises as `read_tensors` does."""
    with opened(path) as file:
        return file.metadata() or {}


def nest(tensors: dict[str, np.ndarray], abstract: Params, path: AnyPath) -> Params:
    """The tensors as parameters of the structure of `abstract`.

    Raises:
        UsageError: a name is missing or left over, or a shape differs; `path` is named.
    """
    wanted = {".".join(map(str, key)): (key, x.shape) for key, x in flatten_dict(abstract).items()}
    check_names(tensors.keys(), wanted.keys(), path)
    for name, (_, shape) in wanted.items():
        if tensors[name].shape != shape:
            raise UsageError(
                f"{path}: {name} has shape {tensors[name].shape}; its config says {shape}."
            )
    return unflatten_dict({wanted[name][0]: x for name, x in tensors.items()})
