"""Weights in a directory as transformers and diffusers save them: one file or shards."""

import re
from pathlib import Path

from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import read_object
from imagen_jax.weights.stored import StoredTensor, listed, open_file
from imagen_jax.weights.torch_file import open_torch_file

Tensors = dict[str, StoredTensor]

TORCH = ".bin"
"""So end the names of PyTorch's files."""
TRANSFORMERS = {".safetensors": "model", TORCH: "pytorch_model"}
DIFFUSERS = dict.fromkeys(TRANSFORMERS, "diffusion_pytorch_model")
"""What files of a kind are called."""
_VARIANTS = ("", ".fp16")
PIPELINE_INDEX = "model_index.json"
"""A file that every pipeline of diffusers has."""


def open_weights(directory: Path, stems: dict[str, str] = TRANSFORMERS) -> Tensors:
    """All tensors of a directory by name; none is read.

    Of several copies the first is read that is whole: safetensors come before PyTorch's files,
    full precision before the variant `fp16`, and one file before shards.

    Raises:
        UsageError: no weights, or a file that is missing, damaged or without what its index says.
    """
    faults = []
    for suffix, stem in stems.items():
        for variant in _VARIANTS:
            whole = directory / f"{stem}{variant}{suffix}"
            index = directory / f"{stem}{suffix}.index{variant}.json"
            if whole.is_file():
                return open_weights_file(whole)
            if index.is_file():
                shards = _read_index(index)
                absent = [file for file in shards if not (directory / file).is_file()]
                if not absent:
                    return _open_shards(index, shards)
                faults.append(f"{index} names files that are missing: {listed(absent)}.")
    names = " nor ".join(f"{stem}{suffix}" for suffix, stem in stems.items())
    nothing = f"{directory} holds neither {names}, whole or in shards with an index."
    raise UsageError((*faults, nothing)[0])


def open_weights_file(path: AnyPath) -> Tensors:
    """All tensors of one file by name; none is read. The name says whether it is PyTorch's."""
    return open_torch_file(path) if path.suffix == TORCH else open_file(path)[1]


def _read_index(index: Path) -> dict[str, list[str]]:
    """The tensors that each file of a copy in shards must hold."""
    places = read_object(index).get("weight_map")
    if not (isinstance(places, dict) and all(isinstance(x, str) and x for x in places.values())):
        raise UsageError(f"{index} has no weight_map; it must name the file of each tensor.")
    shards: dict[str, list[str]] = {}
    for name, file in sorted(places.items()):
        shards.setdefault(file, []).append(name)
    return shards


def _open_shards(index: Path, shards: dict[str, list[str]]) -> Tensors:
    tensors: Tensors = {}
    for file, names in shards.items():
        path = index.parent / file
        held = open_weights_file(path)
        if absent := [name for name in names if name not in held]:
            raise UsageError(f"{path} lacks what its index names: {listed(absent)}.")
        tensors |= held
    return tensors


def licence(directory: Path) -> str:
    """One line: which licence the directory carries, by its README's header and its files.

    A file goes by what its directory carries; a part of a diffusers pipeline, such as
    `text_encoder`, by what the pipeline carries.
    """
    directory = directory.parent if directory.is_file() else directory
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
