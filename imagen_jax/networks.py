"""One stage's networks: built from its config, their parameters as plain pytrees."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from imagen_jax.arrays import TextEmbeddings, TextMask, TokenIds
from imagen_jax.config import EfficientUNetConfig, StageConfig, T5Config, UNetConfig
from imagen_jax.config.choices import Dtype
from imagen_jax.models.attention import TextState
from imagen_jax.models.blocks import Gather, as_they_are
from imagen_jax.models.efficient_unet import EfficientUNet
from imagen_jax.models.t5 import T5Encoder
from imagen_jax.models.unet import UNet

Params = dict[str, Any]
"""Nested dicts of arrays, one entry per network: "unet" and "text_encoder". What a training step
holds fixed may also have "null_text": the embedded empty caption, as `arrays.NullText`."""


GatherAs = Callable[[Params, Dtype], Params]
"""As `models.blocks.Gather`, to a dtype of the computation."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """The static half of a stage's networks; `nnx.merge` with parameters gives them back.

    The gathers bring the parameters of a block together where they are sharded over devices.
    """

    unet: nnx.GraphDef
    text_encoder: nnx.GraphDef
    gather_unet: Gather
    gather_text_encoder: Gather

    def embed(self, params: Params, token_ids: TokenIds, mask: TextMask) -> TextEmbeddings:
        """T5 embeddings of tokens, float32."""
        encoder = nnx.merge(self.text_encoder, params["text_encoder"])
        return encoder(token_ids, mask, gather=self.gather_text_encoder)

    def text_of(self, params: Params, batch: dict[str, jax.Array]) -> TextEmbeddings:
        """T5 embeddings of a batch, float32: those that it brings, or of its tokens."""
        if "text" in batch:
            return batch["text"].astype(jnp.float32)
        return self.embed(params, batch["token_ids"], batch["mask"])

    def encode_text(self, params: Params, text: TextEmbeddings, mask: TextMask) -> TextState:
        """What the U-Net needs of a text, once for all steps."""
        unet = nnx.merge(self.unet, params["unet"])
        return unet.encode_text(text, mask, gather=self.gather_unet)

    def predict(self, params: Params, *inputs, **named_inputs) -> jax.Array:
        """The U-Net's prediction; the arguments are those of its `__call__`."""
        unet = nnx.merge(self.unet, params["unet"])
        return unet(*inputs, **named_inputs, gather=self.gather_unet)


def build_unet(config: StageConfig, rngs: nnx.Rngs) -> UNet | EfficientUNet:
    shared = {"text_width": config.text_encoder.t5.d_model, "rngs": rngs}
    shared["low_res"] = config.low_resolution is not None
    if isinstance(config.unet, UNetConfig):
        return UNet(config.unet, resolution=config.resolution, **shared)
    assert isinstance(config.unet, EfficientUNetConfig)
    return EfficientUNet(config.unet, **shared)


def build_networks(config: StageConfig, gather: GatherAs | None = None) -> Networks:
    """The networks without any memory for parameters.

    Args:
        config: of the stage.
        gather: (a block's parameters, dtype of the computation) -> the same, whole; None where
            every device holds them whole, or where the partitioner may choose.
    """
    encoder = config.text_encoder.t5
    unet = nnx.eval_shape(lambda: build_unet(config, nnx.Rngs(0)))
    text_encoder = nnx.eval_shape(lambda: T5Encoder(encoder, rngs=nnx.Rngs(0)))

    def gather_as(dtype: Dtype) -> Gather:
        return as_they_are if gather is None else functools.partial(gather, dtype=dtype)

    return Networks(
        nnx.graphdef(unet), nnx.graphdef(text_encoder),
        gather_as(config.unet.dtype), gather_as(encoder.dtype),
    )  # fmt: skip


def init_params(config: StageConfig, key: jax.Array) -> Params:
    """Fresh parameters of what this stage trains: the U-Net and, if `train`, its encoder."""
    unet_key, encoder_key = jax.random.split(key)
    params = {"unet": _pure(build_unet(config, nnx.Rngs(unet_key)))}
    if config.text_encoder.train:
        params["text_encoder"] = init_text_encoder(config, encoder_key)
    return params


def init_text_encoder(config: StageConfig, key: jax.Array) -> Params:
    return _pure(T5Encoder(config.text_encoder.t5, rngs=nnx.Rngs(key)))


def abstract_sampled_unet(config: StageConfig) -> Params:
    """A U-Net that is only sampled from: kernels in the dtype of its computation, to which they
    are cast wherever they are used, and all else, norms above all, in float32."""

    def held(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        dtype = config.unet.dtype if path[-1].key == "kernel" else "float32"
        return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))

    made = jax.eval_shape(lambda: _pure(build_unet(config, nnx.Rngs(0))))
    return jax.tree_util.tree_map_with_path(held, made)


def abstract_frozen_encoder(config: T5Config) -> Params:
    """An encoder that is not trained: no step is added to it, so it lies in its computation's
    dtype."""
    made = jax.eval_shape(lambda: _pure(T5Encoder(config, rngs=nnx.Rngs(0))))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(config.dtype)), made)


def _pure(module: nnx.Module) -> Params:
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))
