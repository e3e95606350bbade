"""Tensors of a network as diffusers stores them: one safetensors file or several, maybe `fp16`.

Only safetensors files are read; never pickle.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from imagen_jax.errors import UsageError

# The most precise one wins. An index has had both names of its fp16 form.
_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: no such file, not JSON, or no object.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}; it must be a JSON object.")
    return content


def files_of_tensors(directory: Path) -> dict[str, Path]:
    """Of each stored tensor, the file that holds it.

    Raises:
        UsageError: no weights, or files that are damaged or missing.
    """
    found = next((directory / name for name in _FILES if (directory / name).is_file()), None)
    if found is None:
        raise UsageError(
            f"{directory} holds no {_FILES[0]}, whole, in shards or as fp16; weights are read "
            "from safetensors files only."
        )
    if found.suffix != ".json":
        with opened(found) as file:
            return dict.fromkeys(file.keys(), found)
    shards = read_json(found).get("weight_map")
    if not isinstance(shards, dict):
        raise UsageError(f"{found} has no weight_map; it must name the file of each tensor.")
    return {name: directory / str(shard) for name, shard in shards.items()}


class StoredTensors:
    """Reads one tensor at a time; each file is opened once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = files_of_tensors(directory)
        self._opened: dict[Path, safetensors.safe_open] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def read(self, name: str) -> np.ndarray:
        """A tensor as it is stored.

        Raises:
            UsageError: it cannot be read, or does not hold floating-point numbers.
        """
        path = self._files[name]
        if path not in self._opened:
            self._opened[path] = opened(path)
        try:
            tensor = self._opened[path].get_tensor(name)
        except safetensors.SafetensorError as error:
            raise UsageError(f"{path}: {name} cannot be read: {error}.") from error
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise UsageError(
                f"{path}: {name} is {tensor.dtype}; weights must be floating-point numbers."
            )
        return tensor


def opened(path: Path) -> safetensors.safe_open:
    """An open safetensors file.

    Raises:
        UsageError: no such file, not safetensors, or cut short.
    """
    try:
        return safetensors.safe_open(path, framework="numpy")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    except safetensors.SafetensorError as error:
        raise UsageError(f"{path} is not a whole safetensors file: {error}.") from error
