"""T5 encoders as Hugging Face stores them: names, sizes, loading and conversion.

Every tensor of a checkpoint is either read or left out by a rule written here; any other is an
error. Tensors go one at a time from their file to where they belong, so that the host never
holds more than the largest beside its share of the result.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from imagen_jax.config import T5Config, json_form
from imagen_jax.config.choices import Dtype
from imagen_jax.errors import UsageError, naming
from imagen_jax.networks import Params, abstract_frozen_encoder
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import read_object, shown
from imagen_jax.weights.hugging_face import TORCH, open_weights, open_weights_file
from imagen_jax.weights.named import fit_named, require_same, require_values, sizes_of
from imagen_jax.weights.stored import StoredTensor, open_file
from imagen_jax.weights.tensors import (
    ParamPath,
    StoredParams,
    fit_params,
    place_params,
    write_tensors,
)

_FORMAT = "imagen-jax text encoder 1"

_SIZES = tuple(field.name for field in dataclasses.fields(T5Config) if field.type is int)
_KINDS = {"gated-gelu": "T5 v1.1", "relu": "T5 v1.0"}
# Left out of the configs of early checkpoints, which were all trained with these.
_DEFAULTS = {
    "feed_forward_proj": "relu",
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
_FIXED = {"model_type": "t5", "layer_norm_epsilon": 1e-6}

_EMBEDDING = "shared.weight"
_EMBEDDING_ALIAS = "encoder.embed_tokens.weight"
_LEFT_OUT = ("decoder.", "lm_head.")

_GLOBAL: dict[str, ParamPath] = {
    _EMBEDDING: ("token_embedding",),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": ("relative_bias",),
    "encoder.final_layer_norm.weight": ("final_norm", "scale"),
}
_BLOCK: dict[str, ParamPath] = {
    "layer.0.layer_norm.weight": ("attention_norm", "scale"),
    "layer.0.SelfAttention.q.weight": ("attention", "q", "kernel"),
    "layer.0.SelfAttention.k.weight": ("attention", "k", "kernel"),
    "layer.0.SelfAttention.v.weight": ("attention", "v", "kernel"),
    "layer.0.SelfAttention.o.weight": ("attention", "o", "kernel"),
    "layer.1.layer_norm.weight": ("feed_forward_norm", "scale"),
    "layer.1.DenseReluDense.wo.weight": ("feed_forward", "wo", "kernel"),
}
_WIDENING = {"gated-gelu": ("wi_0", "wi_1"), "relu": ("wi",)}


def t5_names(config: T5Config) -> dict[str, ParamPath]:
    """The path in the parameters of `T5Encoder` of each stored tensor.

    A tensor whose path ends with `kernel` is stored transposed, [outputs, inputs].
    """
    block = _BLOCK | {
        f"layer.1.DenseReluDense.{name}.weight": ("feed_forward", name, "kernel")
        for name in _WIDENING[config.feed_forward]
    }
    names = dict(_GLOBAL)
    for layer in range(config.num_layers):
        for name, path in block.items():
            names[f"encoder.block.{layer}.{name}"] = ("blocks", layer, *path)
    return names


def load_t5(source: AnyPath, config: T5Config, mesh: Mesh) -> Params:
    """The parameters of a frozen encoder in `config.dtype`, as `mesh` shards parameters.

    Every process reads only what its own devices hold. Arguments and errors are `open_t5`'s.
    """
    return place_params(open_t5(source, config), abstract_frozen_encoder(config), mesh)


def open_t5(source: AnyPath, config: T5Config) -> StoredParams:
    """The parameters of a T5 encoder; no tensor is read.

    Args:
        source: a Hugging Face directory (`config.json` beside the weights; a decoder and its
            head are left out), the file of weights in one, or a file that `convert_t5` wrote.
        config: what the stored sizes must be.

    Raises:
        UsageError: a file is missing, damaged, not of T5, or not of the given sizes.
    """
    stored_config, tensors = _open(source)
    require_same(stored_config, config, source, "T5 encoder")
    return tensors


def convert_t5(source: Path, out: Path, dtype: Dtype) -> T5Config:
    """Writes the encoder of a Hugging Face directory or file as one file; returns its sizes.

    Raises:
        UsageError: as `load_t5`, or the file cannot be written.
    """
    config, tensors = _open(source)
    header = {"format": _FORMAT, "config": json_form.to_json(config)}
    write_tensors(out, unflatten_dict(tensors), dtype, header)
    return config


def _open(source: AnyPath) -> tuple[T5Config, StoredParams]:
    if not source.is_file():
        return _of_hugging_face(open_weights, source, source)
    if source.suffix != TORCH:
        header, tensors = open_file(source)
        if header.get("format") == _FORMAT:
            config = json_form.from_json(header.get("config", ""), f"{source} (header)", T5Config)
            return config, fit_params(tensors, abstract_frozen_encoder(config), source)
    if not (source.parent / "config.json").is_file():
        raise UsageError(
            f"{source} is neither an exported stage nor a file that `convert t5` wrote, and there "
            "is no config.json beside it as Hugging Face's weights of T5 have."
        )
    return _of_hugging_face(open_weights_file, source, source.parent)


def _of_hugging_face(
    open_tensors: Callable[[AnyPath], dict[str, StoredTensor]], source: AnyPath, directory: AnyPath
) -> tuple[T5Config, StoredParams]:
    config = read_t5_config(directory)
    tensors = {
        name: tensor
        for name, tensor in open_tensors(source).items()
        if not name.startswith(_LEFT_OUT)
    }
    if _EMBEDDING_ALIAS in tensors:  # Two names of one tensor; both or either may be there.
        alias = tensors.pop(_EMBEDDING_ALIAS)
        tensors.setdefault(_EMBEDDING, alias)
    abstract = abstract_frozen_encoder(config)
    return config, fit_named(tensors, t5_names(config), abstract, source)


def read_t5_config(directory: AnyPath) -> T5Config:
    """The sizes of the encoder in a Hugging Face directory, from its `config.json`.

    Raises:
        UsageError: there is none, or it is not of a T5.
    """
    path = directory / "config.json"
    if not path.exists() and (directory / "text_encoder" / "config.json").exists():
        raise UsageError(f"{directory} is a pipeline; name its directory text_encoder.")
    stored: dict[str, Any] = _DEFAULTS | read_object(path)
    require_values(stored, _FIXED, path, "T5")
    kind = stored["feed_forward_proj"]
    if kind not in tuple(_KINDS):
        known = " and ".join(f"{name!r} ({which})" for name, which in _KINDS.items())
        raise UsageError(
            f"{path} has feed_forward_proj {shown(kind)}; what can be read is {known}."
        )
    sizes = sizes_of(stored, {name: name for name in _SIZES}, path)
    with naming(path):
        return T5Config(feed_forward=kind, **sizes)
