"""T5 v1.1 encoders as Hugging Face stores them: tensor names, and how to read a directory.

Every tensor of a checkpoint is either read or left out by a rule written here; any other is
an error. Only safetensors files are read, whole or in shards; never pickle.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx

from imagen_jax.errors import UsageError
from imagen_jax.models.t5 import T5Encoder
from imagen_jax.network_config import T5Config

ParamPath = tuple[str | int, ...]
Params = dict[Any, Any]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"

_SIZES = tuple(field.name for field in dataclasses.fields(T5Config) if field.type is int)
# Left out of the configs of early checkpoints, which were all trained with these.
_DEFAULTS = {"relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6}
# What T5Encoder computes. The original T5 has another feed-forward layer.
_FIXED = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6}

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
    "layer.1.DenseReluDense.wi_0.weight": ("feed_forward", "wi_0", "kernel"),
    "layer.1.DenseReluDense.wi_1.weight": ("feed_forward", "wi_1", "kernel"),
    "layer.1.DenseReluDense.wo.weight": ("feed_forward", "wo", "kernel"),
}


def t5_names(config: T5Config) -> dict[str, ParamPath]:
    """Of each stored tensor, its path in the parameters of `T5Encoder`.

    A tensor whose path ends with `kernel` is stored transposed, [outputs, inputs].
    """
    names = dict(_GLOBAL)
    for layer in range(config.num_layers):
        for name, path in _BLOCK.items():
            names[f"encoder.block.{layer}.{name}"] = ("blocks", layer, *path)
    return names


def load_t5(directory: str | Path, config: T5Config | None = None) -> tuple[T5Config, Params]:
    """Configuration and parameters of the encoder in a Hugging Face T5 directory.

    Args:
        directory: holds `config.json` and `model.safetensors`, or shards and their index. A
            decoder and its head are left out.
        config: if given, what the stored sizes must be; its `dtype` is kept.

    Returns:
        The configuration, and the parameters nested as `nnx.to_pure_dict` nests them, as
        float32 NumPy arrays: no device holds the whole of a large encoder.

    Raises:
        UsageError: a file is missing, damaged, not of T5 v1.1, or not of the given sizes.
    """
    directory = Path(directory)
    stored_config = _read_config(directory / "config.json")
    if config is not None:
        _require_same_sizes(directory, stored_config, config)
        stored_config = config
    files = _files_of_tensors(directory)
    names = _names_to_read(directory, stored_config, set(files))
    shapes = _shapes(stored_config)
    flat: dict[ParamPath, np.ndarray] = {}
    for file in sorted({files[name] for name in names}):
        here = {name: path for name, path in names.items() if files[name] == file}
        flat |= _read_tensors(file, here, shapes)
    return stored_config, _nested(flat)


def _read_config(path: Path) -> T5Config:
    stored = _DEFAULTS | _read_json(path)
    for name, value in _FIXED.items():
        if stored.get(name) != value:
            raise UsageError(
                f"{path} has {name} {stored.get(name)!r}; T5 v1.1, which is what can be read, "
                f"has {value!r}."
            )
    for name in _SIZES:
        if type(stored.get(name)) is not int:
            raise UsageError(f"{path} has {name} {stored.get(name)!r}; it must be an integer.")
    return T5Config(**{name: stored[name] for name in _SIZES})


def _require_same_sizes(directory: Path, stored: T5Config, wanted: T5Config) -> None:
    for name in _SIZES:
        if getattr(stored, name) != getattr(wanted, name):
            raise UsageError(
                f"The T5 encoder in {directory} has {name} {getattr(stored, name)}; the "
                f"configuration has {getattr(wanted, name)}."
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}; it must be a JSON object.")
    return content


def _files_of_tensors(directory: Path) -> dict[str, Path]:
    """The file that holds each stored tensor."""
    whole, index = directory / _WEIGHTS, directory / _INDEX
    if whole.is_file():
        with _opened(whole) as file:
            return dict.fromkeys(file.keys(), whole)
    if index.is_file():
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict):
            raise UsageError(f"{index} has no weight_map; it must name the file of each tensor.")
        return {name: directory / shard for name, shard in shards.items()}
    raise UsageError(
        f"{directory} holds neither {_WEIGHTS} nor {_INDEX}; T5 weights are read from "
        "safetensors files only."
    )


def _names_to_read(directory: Path, config: T5Config, stored: set[str]) -> dict[str, ParamPath]:
    """`t5_names`, once it is sure that all are stored and nothing unknown is."""
    names = t5_names(config)
    if _EMBEDDING_ALIAS in stored and _EMBEDDING not in stored:  # two names of one tensor
        names[_EMBEDDING_ALIAS] = names.pop(_EMBEDDING)
    known = {*names, _EMBEDDING_ALIAS}
    missing = sorted(set(names) - stored)
    unknown = sorted(name for name in stored - known if not name.startswith(_LEFT_OUT))
    if missing:
        raise UsageError(
            f"The weights in {directory} lack {len(missing)} tensors of a T5 encoder with "
            f"{config.num_layers} layers, the first being {missing[0]}."
        )
    if unknown:
        raise UsageError(
            f"The weights in {directory} hold {len(unknown)} tensors that a T5 v1.1 encoder with "
            f"{config.num_layers} layers does not have, the first being {unknown[0]}."
        )
    return names


def _read_tensors(
    path: Path, names: dict[str, ParamPath], shapes: dict[ParamPath, tuple[int, ...]]
) -> dict[ParamPath, np.ndarray]:
    tensors = {}
    with _opened(path) as file:
        for name, param_path in names.items():
            try:
                stored = file.get_tensor(name)
            except safetensors.SafetensorError as error:
                raise UsageError(f"{path}: {name} cannot be read: {error}.") from error
            tensors[param_path] = _as_parameter(
                stored, param_path, shapes[param_path], f"{path}: {name}"
            )
    return tensors


def _as_parameter(
    stored: np.ndarray, path: ParamPath, shape: tuple[int, ...], what: str
) -> np.ndarray:
    if not jnp.issubdtype(stored.dtype, jnp.floating):
        raise UsageError(f"{what} is {stored.dtype}; weights must be floating-point numbers.")
    value = stored.T if path[-1] == "kernel" else stored
    if value.shape != shape:
        expected = shape[::-1] if path[-1] == "kernel" else shape
        raise UsageError(f"{what} has shape {stored.shape}; the configuration makes it {expected}.")
    return np.ascontiguousarray(value, np.float32)


def _opened(path: Path) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    except safetensors.SafetensorError as error:
        raise UsageError(f"{path} is not a whole safetensors file: {error}.") from error


def _shapes(config: T5Config) -> dict[ParamPath, tuple[int, ...]]:
    """Of each parameter of `T5Encoder`, without making any."""

    def init() -> Params:
        return nnx.to_pure_dict(nnx.state(T5Encoder(config, rngs=nnx.Rngs(0)), nnx.Param))

    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.eval_shape(init))
    return {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}


def _nested(flat: dict[ParamPath, np.ndarray]) -> Params:
    nested: Params = {}
    for path, value in flat.items():
        parent = nested
        for key in path[:-1]:
            parent = parent.setdefault(key, {})
        parent[path[-1]] = value
    return nested
