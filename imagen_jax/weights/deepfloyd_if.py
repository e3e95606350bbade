"""The U-Nets of DeepFloyd IF's stages I and II as diffusers stores them: names and tensors.

Both are `models.unet.UNet`. Every stored tensor is read; one that is missing or left over is an
error.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from imagen_jax.config.choices import Dtype
from imagen_jax.models.unet import UNet
from imagen_jax.networks import Params
from imagen_jax.weights.deepfloyd_config import StoredUNet, read_unet_config
from imagen_jax.weights.hugging_face import DIFFUSERS, open_weights
from imagen_jax.weights.stored import Stored, StoredTensor, check_fit
from imagen_jax.weights.tensors import ParamPath, on_host

_TOP = {
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
    "text_projection": "encoder_hid_proj",
    "conditioning.time.dense_1": "time_embedding.linear_1",
    "conditioning.time.dense_2": "time_embedding.linear_2",
    "conditioning.aug_level.dense_1": "class_embedding.linear_1",
    "conditioning.aug_level.dense_2": "class_embedding.linear_2",
    "pooling.norm": "add_embedding.norm1",
    "pooling.query": "add_embedding.pool.q_proj",
    "pooling.out": "add_embedding.proj",
    "pooling.norm_out": "add_embedding.norm2",
}
_RES_BLOCK = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "embedding": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "shortcut": "conv_shortcut",
}
_ATTENTION = {
    "norm": "group_norm",
    "query": "to_q",
    "text_norm": "norm_cross",
    "out": "to_out.0",
}
_PAIRS = {"key_value": ("to_k", "to_v"), "text_key_value": ("add_k_proj", "add_v_proj")}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def stored_names(path: ParamPath) -> tuple[str, ...]:
    """The stored tensor of a parameter of `UNet`, or the two that it holds side by side."""
    if path == ("pooling", "token"):
        return ("add_embedding.pool.positional_embedding",)
    *module, leaf = path
    return tuple(f"{name}.{_LEAVES[leaf]}" for name in _stored_modules(module))


def _stored_modules(module: list[str | int]) -> tuple[str, ...]:
    match module:
        case ["down" | "up" as way, level, "resample", layer]:
            return (f"{way}_blocks.{level}.{way}samplers.0.{_RES_BLOCK[layer]}",)
        case ["down" | "up" as way, level, "blocks", index, layer]:
            return (f"{way}_blocks.{level}.resnets.{index}.{_RES_BLOCK[layer]}",)
        case ["down" | "up" as way, level, "attentions", index, layer]:
            return _attention(f"{way}_blocks.{level}.attentions.{index}", layer)
        case ["middle", "attention", layer]:
            return _attention("mid_block.attentions.0", layer)
        case ["middle", "block_1" | "block_2" as block, layer]:
            return (f"mid_block.resnets.{int(block[-1]) - 1}.{_RES_BLOCK[layer]}",)
        case ["pooling", "key_value"]:
            return "add_embedding.pool.k_proj", "add_embedding.pool.v_proj"
        case _:
            return (_TOP[".".join(map(str, module))],)


def _attention(prefix: str, layer: str) -> tuple[str, ...]:
    layers = _PAIRS[layer] if layer in _PAIRS else (_ATTENTION[layer],)
    return tuple(f"{prefix}.{name}" for name in layers)


def stored_shape(path: ParamPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which each of `stored_names` is stored: (out, in) and (out, in, h, w)."""
    if path == ("pooling", "token"):
        return (1, *shape)
    *inputs, outputs = shape
    outputs //= len(stored_names(path))
    if len(shape) == 4:
        height, width, channels = inputs
        return (outputs, channels, height, width)
    return (outputs, *inputs)


@functools.cache
def abstract_unet(stored: StoredUNet) -> Params:
    """Shapes of the parameters, without making any."""

    def init() -> Params:
        unet = UNet(stored.config, stored.inputs, resolution=stored.resolution, rngs=nnx.Rngs(0))
        return nnx.to_pure_dict(nnx.state(unet, nnx.Param))

    return jax.eval_shape(init)


def stored_shapes(stored: StoredUNet) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that diffusers stores."""
    return {
        name: stored_shape(path, leaf.shape)
        for path, leaf in flatten_dict(abstract_unet(stored)).items()
        for name in stored_names(path)
    }


@dataclasses.dataclass(frozen=True)
class Assembled:
    """A parameter of `UNet`: one stored tensor, or two side by side."""

    parts: tuple[StoredTensor, ...]
    shape: tuple[int, ...]

    def whole(self, dtype: Dtype) -> np.ndarray:
        parts = [part.whole(dtype) for part in self.parts]
        if len(self.shape) == 4:
            parts = [part.transpose(2, 3, 1, 0) for part in parts]
        elif len(self.shape) == 2:
            parts = [part.T for part in parts]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1).reshape(self.shape))


@dataclasses.dataclass(frozen=True)
class Disassembled:
    """A tensor as diffusers stores it: a parameter of `UNet`, or one of two parts of it."""

    path: ParamPath
    parameter: Stored | np.ndarray
    part: int

    @property
    def shape(self) -> tuple[int, ...]:
        return stored_shape(self.path, self.parameter.shape)

    def whole(self, dtype: Dtype) -> np.ndarray:
        value = on_host(self.parameter, dtype)
        value = np.split(value, len(stored_names(self.path)), axis=-1)[self.part]
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T
        return np.ascontiguousarray(value.reshape(self.shape))


def disassembled(params: Params) -> dict[str, Disassembled]:
    """The parameters of a `UNet` as diffusers stores them, by name; none is read."""
    return {
        name: Disassembled(path, parameter, part)
        for path, parameter in flatten_dict(params).items()
        for part, name in enumerate(stored_names(path))
    }


def open_unet(directory: Path) -> tuple[StoredUNet, Params]:
    """Sizes and parameters of the U-Net in diffusers' `unet` directory; no tensor is read.

    Raises:
        UsageError: a file is missing or damaged, the network is another one, or tensors are
            missing, left over or of other shapes than its config says.
    """
    stored = read_unet_config(directory / "config.json")
    tensors = open_weights(directory, DIFFUSERS)
    check_fit(tensors, stored_shapes(stored), directory)
    params = {
        path: Assembled(tuple(tensors[name] for name in stored_names(path)), leaf.shape)
        for path, leaf in flatten_dict(abstract_unet(stored)).items()
    }
    return stored, unflatten_dict(params)
