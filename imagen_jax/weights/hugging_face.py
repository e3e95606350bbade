"""Weights in a directory as transformers saves them: one file or shards with an index."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagen_jax.errors import UsageError
from imagen_jax.weights.stored import StoredTensor, listed, open_safetensors
from imagen_jax.weights.torch_file import open_torch_file

Tensors = dict[str, StoredTensor]

_KINDS = (("model", ".safetensors", open_safetensors), ("pytorch_model", ".bin", open_torch_file))
_VARIANTS = ("", ".fp16")


def open_weights(directory: Path) -> Tensors:
    """All tensors of a directory by name; none is read.

    Where it holds several copies, safetensors come before PyTorch's files, full precision before
    the variant `fp16`, and one file before shards.

    Raises:
        UsageError: no weights, or a file that is missing, damaged or without what its index says.
    """
    for stem, suffix, open_file in _KINDS:
        for variant in _VARIANTS:
            whole = directory / f"{stem}{variant}{suffix}"
            index = directory / f"{stem}{suffix}.index{variant}.json"
            if whole.is_file():
                return open_file(whole)
            if index.is_file():
                return _open_shards(index, open_file)
    names = " nor ".join(f"{stem}{suffix}" for stem, suffix, _ in _KINDS)
    raise UsageError(f"{directory} holds neither {names}, whole or in shards with an index.")


def _open_shards(index: Path, open_file: Callable[[Path], Tensors]) -> Tensors:
    directory, shards = index.parent, read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(x, str) for x in shards.values()):
        raise UsageError(f"{index} has no weight_map; it must name the file of each tensor.")
    files = sorted(set(shards.values()))
    absent = [file for file in files if not (directory / file).is_file()]
    if absent:
        raise UsageError(f"{index} names files that are missing: {listed(absent)}.")
    tensors: Tensors = {}
    for file in files:
        held = open_file(directory / file)
        absent = [name for name, shard in shards.items() if shard == file and name not in held]
        if absent:
            raise UsageError(f"{directory / file} lacks what its index names: {listed(absent)}.")
        tensors |= held
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UsageError: the file cannot be read or holds something else.
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
