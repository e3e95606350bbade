"""DINOv2 as Hugging Face stores it: names, sizes and loading.

Every tensor of a checkpoint is either read or left out by a rule written here; any other is an
error.
"""

from pathlib import Path

from flax import nnx
from jax.sharding import Mesh

from imagen_jax.config.encoders import DINOv2Config
from imagen_jax.errors import UsageError, naming
from imagen_jax.models.dinov2 import DINOv2
from imagen_jax.networks import Params
from imagen_jax.storage.json_text import read_object, shown
from imagen_jax.weights.hugging_face import open_weights
from imagen_jax.weights.named import (
    Names,
    abstract_params,
    fit_named,
    require_values,
    sizes_of,
)
from imagen_jax.weights.tensors import StoredParams, place_params

_SIZES = {
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "side": "image_size",
    "patch": "patch_size",
}
_DEFAULTS = {
    "mlp_ratio": 4,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "hidden_act": "gelu",
}
_FIXED = {
    "model_type": "dinov2",
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "hidden_act": "gelu",
}
_MASK_TOKEN = "embeddings.mask_token"
"""In the place of patches that are hidden in training; left out."""

_EMBEDDINGS: Names = {
    "embeddings.cls_token": ("class_token",),
    "embeddings.position_embeddings": ("positions",),
    "embeddings.patch_embeddings.projection.weight": ("patches", "kernel"),
    "embeddings.patch_embeddings.projection.bias": ("patches", "bias"),
    "layernorm.weight": ("norm", "scale"),
    "layernorm.bias": ("norm", "bias"),
}
_LAYERS = {
    "attention.attention.query": ("attention", "q"),
    "attention.attention.key": ("attention", "k"),
    "attention.attention.value": ("attention", "v"),
    "attention.output.dense": ("attention", "out"),
    "mlp.fc1": ("dense_1",),
    "mlp.fc2": ("dense_2",),
}
_NORMS = {"norm1": "norm_1", "norm2": "norm_2"}
_SCALES = {"layer_scale1.lambda1": "scale_1", "layer_scale2.lambda1": "scale_2"}


def dinov2_names(config: DINOv2Config) -> Names:
    """The path in the parameters of `DINOv2` of each tensor that is read."""
    names = dict(_EMBEDDINGS)
    for block in range(config.num_layers):
        prefix, own = f"encoder.layer.{block}", ("blocks", block)
        for theirs, path in _LAYERS.items():
            names[f"{prefix}.{theirs}.weight"] = (*own, *path, "kernel")
            names[f"{prefix}.{theirs}.bias"] = (*own, *path, "bias")
        for theirs, ours in _NORMS.items():
            names[f"{prefix}.{theirs}.weight"] = (*own, ours, "scale")
            names[f"{prefix}.{theirs}.bias"] = (*own, ours, "bias")
        for theirs, ours in _SCALES.items():
            names[f"{prefix}.{theirs}"] = (*own, ours)
    return names


def load_dinov2(directory: Path, mesh: Mesh) -> tuple[DINOv2Config, Params]:
    """Sizes and parameters of a DINOv2, the latter in float32 and as `mesh` shards parameters.

    Every process reads only what its own devices hold. Arguments and errors are `open_dinov2`'s.
    """
    config, stored = open_dinov2(directory)
    return config, place_params(stored, _abstract(config), mesh)


def open_dinov2(directory: Path) -> tuple[DINOv2Config, StoredParams]:
    """Sizes and parameters of a DINOv2; no tensor is read.

    Args:
        directory: one of Hugging Face, `config.json` beside the weights.

    Raises:
        UsageError: a file is missing, damaged or not of DINOv2.
    """
    config, tensors = read_dinov2_config(directory), open_weights(directory)
    tensors.pop(_MASK_TOKEN, None)
    return config, fit_named(tensors, dinov2_names(config), _abstract(config), directory)


def _abstract(config: DINOv2Config) -> Params:
    return abstract_params(lambda: DINOv2(config, rngs=nnx.Rngs(0)), "float32")


def read_dinov2_config(directory: Path) -> DINOv2Config:
    """The sizes of the DINOv2 in a Hugging Face directory, from its `config.json`.

    Raises:
        UsageError: there is none, or it is of another network.
    """
    path = directory / "config.json"
    stored = _DEFAULTS | read_object(path)
    require_values(stored, _FIXED, path, "DINOv2")
    sizes, ratio = sizes_of(stored, _SIZES, path), stored["mlp_ratio"]
    if type(ratio) not in (int, float) or not 0 < ratio < 100:
        raise UsageError(f"{path} has mlp_ratio {shown(ratio)}; it must be a positive number.")
    with naming(path):
        return DINOv2Config(**sizes, hidden=int(sizes["width"] * ratio))
