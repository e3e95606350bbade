"""One stage's networks: built from its config, their parameters as plain pytrees."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, UInt8

from imagen_jax.arrays import (
    AugLevel,
    Features,
    Images,
    LogSNR,
    TextEmbeddings,
    TextMask,
    TokenIds,
    Traced,
)
from imagen_jax.conditions import Conditions
from imagen_jax.config import EfficientUNetConfig, StageConfig, T5Config, UNetConfig
from imagen_jax.config.choices import Dtype
from imagen_jax.config.conditions import (
    AUG_LEVEL,
    GUIDANCE,
    LOW_RES,
    NetworkInputs,
    PictureCondition,
)
from imagen_jax.config.encoders import CLIPTextConfig
from imagen_jax.diffusion import chain, process
from imagen_jax.diffusion.noise import NoiseKeys
from imagen_jax.diffusion.pixels import to_unit
from imagen_jax.diffusion.process import Predicted
from imagen_jax.models import low_rank
from imagen_jax.models.blocks import Gather, as_they_are
from imagen_jax.models.clip import CLIPText, TextStates
from imagen_jax.models.conditional import Encoded
from imagen_jax.models.efficient_unet import EfficientUNet
from imagen_jax.models.t5 import T5Encoder
from imagen_jax.models.unet import UNet
from imagen_jax.parallel.seeds import key_of

Params = dict[str, Any]
"""Nested dicts of arrays, one entry per network: "unet" and "text_encoder"; or "adapter" alone, of
a stage that trains one of these. What a training step holds fixed may also have "null_text": the
embedded empty caption, as `arrays.NullText`."""
ADAPTER = "adapter"


GatherAs = Callable[[Params, Dtype], Params]
"""As `models.blocks.Gather`, to a dtype of the computation."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """The static half of a stage's networks; `nnx.merge` with parameters gives them back.

    The gathers bring the parameters of a block together where they are sharded over devices. A
    stage without text has no text encoder.
    """

    config: StageConfig
    unet: nnx.GraphDef
    text_encoder: nnx.GraphDef | None
    gather_unet: Gather
    gather_text_encoder: Gather

    def embed(self, params: Params, token_ids: TokenIds, mask: TextMask) -> TextEmbeddings:
        """Embeddings of tokens by the text encoder, float32."""
        encoder = nnx.merge(self.text_encoder, params["text_encoder"])
        states = encoder(token_ids, mask, gather=self.gather_text_encoder)
        if not isinstance(states, TextStates):
            return states
        return getattr(states, self.config.text_encoder.clip_layer)

    def text_of(self, params: Params, batch: dict[str, jax.Array]) -> TextEmbeddings:
        """Embeddings of a batch's texts, float32: those that it brings, or of its tokens."""
        if "text" in batch:
            return batch["text"].astype(jnp.float32)
        return self.embed(params, batch["token_ids"], batch["mask"])

    def conditions_of(self, params: Params, batch: dict[str, jax.Array]) -> Conditions:
        """What a batch tells of its pictures, but for noise levels; pictures are still pixels."""
        inputs = self.config.inputs
        has_text, pictures = inputs.text_width is not None, (*inputs.stacked, *inputs.pictures)
        return Conditions(
            text=self.text_of(params, batch) if has_text else None,
            mask=batch["mask"] if has_text else None,
            label=None if inputs.classes is None else batch["label"],
            pictures={picture.name: batch[picture.name] for picture in pictures},
            numbers={name: batch[name] for name in inputs.numbers},
        )

    def gathered(self, params: Params) -> Params:
        """The parameters with the U-Net's whole on every device, for many calls in a row."""
        return params | {"unet": self.gather_unet(params["unet"])}

    def encode(self, params: Params, conditions: Conditions) -> Encoded:
        """What the U-Net needs of its conditions, once for all steps; `prepare` comes before it."""
        unet = nnx.merge(self.unet, params["unet"])
        return unet.encode(conditions, gather=self.gather_unet)

    def predict(self, params: Params, z: Images, log_snr: LogSNR, encoded: Encoded) -> Predicted:
        """The U-Net's prediction from z at noise lambda, and what `encode` gave."""
        unet, variant = nnx.merge(self.unet, params["unet"]), self.config.unet.variant
        level = chain.step_of(log_snr) if variant.time_input == "step" else log_snr
        out = unet(z, level, encoded, gather=self.gather_unet)
        if not variant.predicts_variance:
            return Predicted(out)
        value, variance = jnp.split(out, 2, axis=-1)  # The latter in [-1, 1].
        return Predicted(value, (variance + 1) / 2)


def prepare(
    config: StageConfig,
    conditions: Conditions,
    level: AugLevel,
    keys: NoiseKeys,
    size: tuple[int, int],
) -> Conditions:
    """The conditions as the U-Net reads them: pixels become pictures in [-1, 1] or maps of 0 and 1,
    and of super-resolution the low-resolution one is noised to `level`, which is told too.

    Args:
        level: one for each picture; a base reads none.
        keys: of the noise.
        size: (height, width) of z.
    """
    known = {picture.name: picture for picture in (*config.inputs.stacked, *config.inputs.pictures)}
    pictures = {name: _as_read(known[name], x) for name, x in conditions.pictures.items()}
    numbers = dict(conditions.numbers)
    if LOW_RES in pictures:
        low_res = pictures[LOW_RES]
        if config.diffusion.augmented == "enlarged":
            low_res = process.enlarge(low_res, size)
        noised = process.augment_low_res(low_res, level, keys, config.diffusion.schedule)
        reads_steps = config.unet.variant.time_input == "step"
        pictures[LOW_RES] = noised
        numbers[AUG_LEVEL] = chain.step_at(level) if reads_steps else level
    return dataclasses.replace(conditions, pictures=pictures, numbers=numbers)


def _as_read(condition: PictureCondition, pixels: UInt8[Array, "batch _ _ _"]) -> Features:
    """Pixels of a condition as float32 [batch, height, width, channels]."""
    if condition.kind == "labels":  # No class at all gives zeros.
        return jax.nn.one_hot(pixels[..., 0], condition.classes)
    if condition.kind == "mask":
        colours, unknown = pixels[..., :3], pixels[..., 3:] > 127
        known = jnp.where(unknown, 0.0, to_unit(colours))
        return jnp.concatenate([known, unknown.astype(known.dtype)], axis=-1)
    return to_unit(pixels)


def told_guidance(config: StageConfig, conditions: Conditions, weights: Traced) -> Conditions:
    """The conditions with a guidance weight for each picture, where the U-Net takes one.

    It reads the weight's place, 0 to 1, in the range of `conditions.guidance` (Meng et al. 2022).

    Args:
        weights: float32 [batch].
    """
    if config.conditions.guidance is None:
        return conditions
    low, high = config.conditions.guidance
    numbers = conditions.numbers | {GUIDANCE: (weights - low) / (high - low)}
    return dataclasses.replace(conditions, numbers=numbers)


def retold_guidance(config: StageConfig, encoded: Encoded, weights: Traced) -> Encoded:
    """The same of conditions that are encoded already.

    Args:
        weights: float32 [batch], or one for all.
    """
    if config.conditions.guidance is None:
        return encoded
    weights = jnp.broadcast_to(weights, encoded.others.numbers[GUIDANCE].shape)
    return dataclasses.replace(encoded, others=told_guidance(config, encoded.others, weights))


def _make_unet(
    network: UNetConfig | EfficientUNetConfig,
    inputs: NetworkInputs,
    resolution: int,
    rngs: nnx.Rngs,
) -> UNet | EfficientUNet:
    if isinstance(network, UNetConfig):
        return UNet(network, inputs, resolution=resolution, rngs=rngs)
    return EfficientUNet(network, inputs, rngs=rngs)


def _make_text_encoder(config: T5Config | CLIPTextConfig, rngs: nnx.Rngs) -> T5Encoder | CLIPText:
    if isinstance(config, T5Config):
        return T5Encoder(config, rngs=rngs)
    return CLIPText(config, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class _Traced:
    """What a network is without its parameters: its graph, and their shapes and dtypes."""

    graph: nnx.GraphDef
    shapes: Params


# Tracing a large network takes a second, and a process asks for the same one many times.
@functools.cache
def _traced_unet(
    network: UNetConfig | EfficientUNetConfig, inputs: NetworkInputs, resolution: int
) -> _Traced:
    return _trace(lambda: _make_unet(network, inputs, resolution, nnx.Rngs(0)))


@functools.cache
def _traced_encoder(config: T5Config | CLIPTextConfig) -> _Traced:
    return _trace(lambda: _make_text_encoder(config, nnx.Rngs(0)))


def _trace(make: Callable[[], nnx.Module]) -> _Traced:
    module = nnx.eval_shape(make)
    return _Traced(nnx.graphdef(module), _pure(module))


def build_networks(config: StageConfig, gather: GatherAs | None = None) -> Networks:
    """The networks without any memory for parameters.

    Args:
        config: of the stage.
        gather: (a block's parameters, dtype of the computation) -> the same, whole; None where
            every device holds them whole, or where the partitioner may choose.
    """
    encoder = config.text_encoder.network

    def gather_as(dtype: Dtype) -> Gather:
        return as_they_are if gather is None else functools.partial(gather, dtype=dtype)

    return Networks(
        config,
        _traced_unet(config.unet, config.inputs, config.resolution).graph,
        _traced_encoder(encoder).graph if config.conditions.text else None,
        gather_as(config.unet.dtype),
        gather_as(encoder.dtype),
    )


def without_remat(config: StageConfig) -> StageConfig:
    """The same stage for a U-Net that runs forward only and whose parameters are whole everywhere.

    Remat's scans stack the parameters of their blocks anew in every call, which takes as much
    memory again.
    """
    return dataclasses.replace(config, unet=dataclasses.replace(config.unet, remat=()))


def init_params(config: StageConfig, key: jax.Array) -> Params:
    """Fresh parameters of what this stage trains: its networks, or an adapter of these alone."""
    if config.adapter.rank:
        return {ADAPTER: low_rank.init(config.adapter, abstract_adapted(config), key)}
    return init_networks(config, key)


def init_networks(config: StageConfig, key: jax.Array) -> Params:
    """Fresh parameters of the U-Net and, if the stage trains it, of its encoder."""
    unet_key, encoder_key = jax.random.split(key)
    unet = _make_unet(config.unet, config.inputs, config.resolution, nnx.Rngs(unet_key))
    params = {"unet": _pure(unet)}
    if config.text_encoder.train:
        params["text_encoder"] = init_text_encoder(config, encoder_key)
    return params


def abstract_params(config: StageConfig) -> Params:
    """Shapes and dtypes of what `init_params` makes."""
    if config.adapter.rank:
        init = functools.partial(low_rank.init, config.adapter, abstract_adapted(config))
        return {ADAPTER: jax.eval_shape(init, key_of(0))}
    params = {"unet": _abstract_unet(config)}
    if config.text_encoder.train:
        params["text_encoder"] = abstract_text_encoder(config)
    return params


def _abstract_unet(config: StageConfig) -> Params:
    shapes = _traced_unet(config.unet, config.inputs, config.resolution).shapes
    return jax.tree.map(lambda x: x, shapes)  # Whoever gets the dicts may change them.


def abstract_text_encoder(config: StageConfig) -> Params:
    """Shapes and dtypes of an encoder as `init_text_encoder` makes it."""
    return jax.tree.map(lambda x: x, _traced_encoder(config.text_encoder.network).shapes)


def abstract_adapted(config: StageConfig) -> Params:
    """The networks that the stage's adapter may add to, held fixed: shapes and dtypes."""
    made = {"unet": _abstract_unet(config)}
    if config.adapts_text_encoder:
        made["text_encoder"] = abstract_frozen_encoder(config.text_encoder.network)
    return made


def with_adapter(config: StageConfig, params: Params, frozen: Params) -> tuple[Params, Params]:
    """(trained, fixed) parameters -> those of the networks that the adapter changes, and others.

    Without an adapter they are what they were.
    """
    if ADAPTER not in params:
        return params, frozen
    adapted = {name: frozen[name] for name in params[ADAPTER]}
    networks = low_rank.merge(adapted, params[ADAPTER], config.adapter.scale)
    others = {name: x for name, x in frozen.items() if name not in ("unet", *networks)}
    return {"unet": frozen["unet"]} | networks, others


def init_text_encoder(config: StageConfig, key: jax.Array) -> Params:
    return _pure(_make_text_encoder(config.text_encoder.network, nnx.Rngs(key)))


def abstract_sampled_unet(config: StageConfig) -> Params:
    """A U-Net that is only sampled from: kernels in the dtype of its computation, to which they
    are cast wherever they are used, and all else, norms above all, in float32."""

    def held(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        dtype = config.unet.dtype if path[-1].key == "kernel" else "float32"
        return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))

    return jax.tree_util.tree_map_with_path(held, _abstract_unet(config))


def abstract_frozen_encoder(config: T5Config | CLIPTextConfig) -> Params:
    """An encoder that is not trained: no step is added to it, so it lies in its computation's
    dtype."""
    dtype = jnp.dtype(config.dtype)
    shapes = _traced_encoder(config).shapes
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)


def _pure(module: nnx.Module) -> Params:
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))
