"""CLIP as Hugging Face stores it: names, sizes and loading.

Every tensor of a checkpoint is either read or left out by a rule written here; any other is an
error.
"""

from pathlib import Path
from typing import Any, get_args

from flax import nnx
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from imagen_jax.config import json_form
from imagen_jax.config.choices import GeluKind
from imagen_jax.config.encoders import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from imagen_jax.errors import UsageError, naming
from imagen_jax.models.clip import CLIP, CLIPText
from imagen_jax.networks import Params
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import read_object, shown
from imagen_jax.weights.hugging_face import Tensors, open_weights
from imagen_jax.weights.named import (
    Names,
    abstract_params,
    fit_named,
    require_same,
    require_values,
    sizes_of,
)
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.tensors import StoredParams, fit_params, place_params, write_tensors

_FORMAT = "imagen-jax clip 1"

_SIZES = {
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden": "intermediate_size",
}
_TEXT_SIZES = _SIZES | {"vocab_size": "vocab_size", "max_length": "max_position_embeddings"}
_VISION_SIZES = _SIZES | {"side": "image_size", "patch": "patch_size"}
# Left out of configs where they are so; the published ones are of several ages.
_DEFAULTS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3}
_TEXT_DEFAULTS = _DEFAULTS | {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS = _DEFAULTS | {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
}
_FIXED = {"layer_norm_eps": 1e-5, "num_channels": 3}
_WRONG_END = 2
"""What old configs call the end of a text, and no tokenizer does: it is the last piece."""

_LEFT_OUT = "position_ids"
_TEXT_ONLY = "clip_text_model"
_TEXT_PREFIX = "text_model."
_NOT_TEXT = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")

_ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
_LAYERS = {f"self_attn.{theirs}": ("attention", ours) for theirs, ours in _ATTENTION.items()}
_LAYERS |= {"mlp.fc1": ("dense_1",), "mlp.fc2": ("dense_2",)}
_NORMS = {"layer_norm1": "norm_1", "layer_norm2": "norm_2"}


def clip_names(config: CLIPConfig) -> Names:
    """The path in the parameters of `CLIP` of each tensor."""
    towers = {"text": clip_text_names(config.text), "vision": _vision_names(config.vision)}
    return {
        "logit_scale": ("log_scale",),
        "text_projection.weight": ("text_projection", "kernel"),
        "visual_projection.weight": ("vision_projection", "kernel"),
        **{
            f"{tower}_model.{name}": (tower, *path)
            for tower, names in towers.items()
            for name, path in names.items()
        },
    }


def clip_text_names(config: CLIPTextConfig) -> Names:
    """The path in the parameters of `CLIPText` of each tensor of a text tower."""
    return {
        "embeddings.token_embedding.weight": ("token_embedding",),
        "embeddings.position_embedding.weight": ("positions",),
        **_norm_names("final_layer_norm", "norm"),
        **_block_names(config.num_layers),
    }


def _vision_names(config: CLIPVisionConfig) -> Names:
    return {
        "embeddings.class_embedding": ("class_token",),
        "embeddings.position_embedding.weight": ("positions",),
        "embeddings.patch_embedding.weight": ("patches", "kernel"),
        **_norm_names("pre_layrnorm", "norm_in"),  # So spelled.
        **_norm_names("post_layernorm", "norm"),
        **_block_names(config.num_layers),
    }


def _norm_names(theirs: str, *ours: str | int) -> Names:
    return {f"{theirs}.weight": (*ours, "scale"), f"{theirs}.bias": (*ours, "bias")}


def _block_names(count: int) -> Names:
    names: Names = {}
    for block in range(count):
        prefix = f"encoder.layers.{block}"
        for theirs, ours in _NORMS.items():
            names |= _norm_names(f"{prefix}.{theirs}", "blocks", block, ours)
        for theirs, path in _LAYERS.items():
            names[f"{prefix}.{theirs}.weight"] = ("blocks", block, *path, "kernel")
            names[f"{prefix}.{theirs}.bias"] = ("blocks", block, *path, "bias")
    return names


def load_clip(source: Path, mesh: Mesh) -> tuple[CLIPConfig, Params]:
    """Sizes and parameters of a CLIP, the latter in float32 and as `mesh` shards parameters.

    Every process reads only what its own devices hold. Arguments and errors are `open_clip`'s.
    """
    config, stored = open_clip(source)
    return config, place_params(stored, _abstract(config), mesh)


def open_clip(source: Path) -> tuple[CLIPConfig, StoredParams]:
    """Sizes and parameters of a CLIP with both towers; no tensor is read.

    Args:
        source: a directory of Hugging Face, `config.json` beside the weights, or a file that
            `convert_clip` wrote.

    Raises:
        UsageError: a file is missing, damaged or not of CLIP.
    """
    if not source.is_file():
        config, tensors = read_clip_config(source), _open(source)
        return config, fit_named(tensors, clip_names(config), _abstract(config), source)
    header, tensors = open_file(source)
    if header.get("format") != _FORMAT:
        raise UsageError(f"{source} is not a file that `convert clip` wrote; name a directory.")
    config = json_form.from_json(header.get("config", ""), f"{source} (header)", CLIPConfig)
    return config, fit_params(tensors, _abstract(config), source)


def convert_clip(directory: Path, out: Path) -> CLIPConfig:
    """Writes the CLIP of a Hugging Face directory as one file, in float32; returns its sizes.

    Raises:
        UsageError: as `open_clip`, or the file cannot be written.
    """
    config, stored = open_clip(directory)
    header = {"format": _FORMAT, "config": json_form.to_json(config)}
    write_tensors(out, unflatten_dict(stored), "float32", header)
    return config


def _abstract(config: CLIPConfig) -> Params:
    return abstract_params(lambda: CLIP(config, rngs=nnx.Rngs(0)), "float32")


def load_clip_text(directory: AnyPath, config: CLIPTextConfig, mesh: Mesh) -> Params:
    """The parameters of a frozen text tower in `config.dtype`, as `mesh` shards parameters.

    Every process reads only what its own devices hold. Arguments and errors are
    `open_clip_text`'s.
    """
    return place_params(open_clip_text(directory, config), _abstract_text(config), mesh)


def open_clip_text(directory: AnyPath, config: CLIPTextConfig) -> StoredParams:
    """The parameters of a text tower; no tensor is read.

    Args:
        directory: of a CLIP, of which the rest is left out, or of a text tower alone, as
            pipelines of diffusers have it.
        config: what the stored sizes must be.

    Raises:
        UsageError: a file is missing, damaged, not of CLIP or not of the given sizes.
    """
    stored_config = read_clip_text_config(directory)
    require_same(stored_config, config, directory, "text tower")
    tensors = {
        name.removeprefix(_TEXT_PREFIX): tensor
        for name, tensor in _open(directory).items()
        if not name.startswith(_NOT_TEXT)
    }
    return fit_named(tensors, clip_text_names(config), _abstract_text(config), directory)


def _abstract_text(config: CLIPTextConfig) -> Params:
    return abstract_params(lambda: CLIPText(config, rngs=nnx.Rngs(0)), config.dtype)


def _open(directory: AnyPath) -> Tensors:
    tensors = open_weights(directory)
    return {name: x for name, x in tensors.items() if not name.endswith(_LEFT_OUT)}


def read_clip_config(directory: Path) -> CLIPConfig:
    """The sizes of the CLIP in a Hugging Face directory, from its `config.json`.

    Raises:
        UsageError: there is none, or it is not of a CLIP with both towers.
    """
    path = directory / "config.json"
    stored = read_object(path)
    require_values(stored, {"model_type": "clip"}, path, "CLIP")
    with naming(path):
        return CLIPConfig(
            text=_text_config(_part(stored, "text_config", path), path),
            vision=_vision_config(_part(stored, "vision_config", path), path),
            **sizes_of({"projection_dim": 512} | stored, {"embedding": "projection_dim"}, path),
        )


def read_clip_text_config(directory: AnyPath) -> CLIPTextConfig:
    """The sizes of the text tower in a Hugging Face directory of CLIP or of that tower alone.

    Raises:
        UsageError: there is none, or it is of another network.
    """
    path = directory / "config.json"
    stored = read_object(path)
    if stored.get("model_type") != _TEXT_ONLY:
        require_values(stored, {"model_type": "clip"}, path, "CLIP")
        stored = _part(stored, "text_config", path)
    with naming(path):
        return _text_config(stored, path)


def _part(stored: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """One tower's part; what is said again under an older name counts more."""
    part: dict[str, Any] = {}
    for key in (name, f"{name}_dict"):
        value = stored.get(key) or {}
        if not isinstance(value, dict):
            raise UsageError(f"{path} has {key} {shown(value)}; it must be an object.")
        part |= value
    return part


def _text_config(stored: dict[str, Any], path: Path) -> CLIPTextConfig:
    stored = _TEXT_DEFAULTS | stored
    sizes = sizes_of(stored, _TEXT_SIZES | {"end_id": "eos_token_id"}, path)
    if sizes["end_id"] == _WRONG_END:
        sizes["end_id"] = sizes["vocab_size"] - 1
    return CLIPTextConfig(**sizes, activation=_activation(stored, path))


def _vision_config(stored: dict[str, Any], path: Path) -> CLIPVisionConfig:
    stored = _VISION_DEFAULTS | stored
    return CLIPVisionConfig(
        **sizes_of(stored, _VISION_SIZES, path), activation=_activation(stored, path)
    )


def _activation(stored: dict[str, Any], path: Path) -> GeluKind:
    require_values(stored, _FIXED, path, "CLIP")
    kind = stored["hidden_act"]
    if kind not in get_args(GeluKind):
        known = " and ".join(map(repr, get_args(GeluKind)))
        raise UsageError(f"{path} has hidden_act {shown(kind)}; what can be read is {known}.")
    return kind
