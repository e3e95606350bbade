"""Weights in a directory as transformers and diffusers save them: one file or shards."""

import re
from collections.abc import Callable
from pathlib import Path

from imagen_jax.errors import UsageError
from imagen_jax.json_text import read_object
from imagen_jax.weights.stored import StoredTensor, listed, open_file
from imagen_jax.weights.torch_file import open_torch_file

Tensors = dict[str, StoredTensor]

TRANSFORMERS = {".safetensors": "model", ".bin": "pytorch_model"}
DIFFUSERS = dict.fromkeys(TRANSFORMERS, "diffusion_pytorch_model")
"""What files of a kind are called."""
_OPEN = {".safetensors": lambda path: open_file(path)[1], ".bin": open_torch_file}
_VARIANTS = ("", ".fp16")
PIPELINE_INDEX = "model_index.json"
"""A file that every pipeline of diffusers has."""


def open_weights(directory: Path, stems: dict[str, str] = TRANSFORMERS) -> Tensors:
    """All tensors of a directory by name; none is read.

    Where it holds several copies, safetensors come before PyTorch's files, full precision before
    the variant `fp16`, and one file before shards.

    Raises:
        UsageError: no weights, or a file that is missing, damaged or without what its index says.
    """
    for suffix, stem in stems.items():
        for variant in _VARIANTS:
            whole = directory / f"{stem}{variant}{suffix}"
            index = directory / f"{stem}{suffix}.index{variant}.json"
            if whole.is_file():
                return _OPEN[suffix](whole)
            if index.is_file():
                return _open_shards(index, _OPEN[suffix])
    names = " nor ".join(f"{stem}{suffix}" for suffix, stem in stems.items())
    raise UsageError(f"{directory} holds neither {names}, whole or in shards with an index.")


def _open_shards(index: Path, open_file: Callable[[Path], Tensors]) -> Tensors:
    directory, shards = index.parent, read_object(index).get("weight_map")
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


def licence(directory: Path) -> str:
    """One line: which licence the directory carries, by its README's header and its files.

    A part of a diffusers pipeline, such as `text_encoder`, goes by what the pipeline carries.
    """
    whole = directory.absolute().parent
    if (whole / PIPELINE_INDEX).is_file():
        directory = whole
    readme = directory / "README.md"
    text = readme.read_text(errors="replace") if readme.is_file() else ""
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    named = re.search(r"^license(?:_name)?: *(.+)$", header[1], re.MULTILINE) if header else None
    files = sorted(path.name for path in directory.glob("LICEN[SC]E*"))
    said = [f"README.md says {named[1].strip()}"] if named else []
    said += [f"see {', '.join(files)} there"] if files else []
    if not said:
        return f"{directory} carries no licence; that under which you got the weights holds."
    return f"The weights are under the licence of {directory}: {'; '.join(said)}."
