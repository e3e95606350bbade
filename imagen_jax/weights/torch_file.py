"""PyTorch's `.bin` files, read by PyTorch where a user has it: the only place that imports it.

Such a file is a pickle, which could run code. `weights_only=True` makes PyTorch build tensors
and refuse all else; there is no other way in.
"""

import functools
import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # What PyTorch raises; nothing here unpickles.
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from imagen_jax.errors import UsageError
from imagen_jax.weights.stored import Index, StoredTensor

_DAMAGED = (
    UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    struct.error,
)
"""What `torch.load` raises for files that are cut short, or are something else."""


def open_torch_file(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a `.bin` file by name.

    They stay on disk until they are read. Only files older than PyTorch 1.6 are no zip archive
    and have to be held in memory whole.

    Raises:
        UsageError: PyTorch is not installed, or the file is damaged or holds more than tensors.
    """
    mapped = zipfile.is_zipfile(path)
    tensors = _load(path, mapped)
    return {
        name: StoredTensor(
            origin=f"{path}: {name}",
            stored_shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            read=functools.partial(_read, path, name)
            if mapped
            else functools.partial(_part, tensor),
        )
        for name, tensor in tensors.items()
    }


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            f"{path} can be read by PyTorch only, which is not installed; install it, or save "
            "the weights as safetensors."
        ) from error
    return torch


def _load(path: Path, mapped: bool) -> dict[str, Any]:
    torch = _torch(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _DAMAGED as error:
        raise UsageError(
            f"{path} is cut short, is not a PyTorch file or holds more than tensors "
            f"({type(error).__name__}); nothing of it was run."
        ) from error
    if not isinstance(loaded, dict) or not all(torch.is_tensor(x) for x in loaded.values()):
        raise UsageError(f"{path} is not a dict of tensors, which a file of weights must be.")
    return loaded


def _read(path: Path, name: str, index: Index) -> np.ndarray:
    # Mapped anew each time: pages of a file that stays mapped are memory of this process.
    return _part(_load(path, mapped=True)[name], index)


def _part(tensor: Any, index: Index) -> np.ndarray:
    import torch

    part = tensor.detach()[index]
    if part.dtype == torch.bfloat16:  # NumPy has none of its own.
        return part.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return part.numpy()
