"""What the base U-Net and the Efficient U-Net share: conditioning, stem and head."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import dataclass

from imagen_jax import ops
from imagen_jax.arrays import Embedding, Features, Images, NoiseLevel, TextEmbeddings, TextMask
from imagen_jax.conditions import Conditions
from imagen_jax.config import EfficientUNetConfig, NetworkInputs, UNetConfig
from imagen_jax.models.added import Added
from imagen_jax.models.attention import AttentionPooling, ImageAttention, TextState
from imagen_jax.models.blocks import Gather, as_they_are, run_blocks, whole
from imagen_jax.models.layers import (
    ACTIVATIONS,
    Conditioning,
    GroupNorm,
    at_size_of,
    conv,
    linear,
)


@dataclass
class Encoded:
    """What a U-Net is told beside z, with all done that depends on no noise level.

    Attributes:
        text: the text's part of every layer.
        others: all other conditions.
    """

    text: TextState
    others: Conditions


class PixelHead(nnx.Module):
    """Two convolutions of whole pixels: they hide the borders of the patches, and see the input.

    Args:
        channels: of what the patches gave.
        in_channels: of the network's input.
        out_channels: of the prediction, which starts as zero.
    """

    def __init__(
        self,
        channels: int,
        in_channels: int,
        out_channels: int,
        activation: Callable[[jax.Array], jax.Array],
        *,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.conv_1 = conv(channels + in_channels, channels, dtype=dtype, rngs=rngs)
        self.conv_2 = conv(channels, out_channels, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features, inputs: Features) -> Features:
        x = jnp.concatenate([x, inputs.astype(x.dtype)], axis=-1)
        return self.conv_2(self.activation(self.conv_1(x)))


class ConditionalUNet(nnx.Module):
    """Predicts eps, x0 or v from z_t, its noise, and whatever else its stage is told.

    Subclasses add the blocks: `trunk` runs them and `attentions` lists theirs.

    Args:
        config: of the subclass.
        inputs: what it is told beside z.
        width: channels after the stem.
        head_width: channels before the head.
        pooling_head_dim: width of the heads of the attention pooling.
    """

    def __init__(
        self,
        config: UNetConfig | EfficientUNetConfig,
        inputs: NetworkInputs,
        *,
        width: int,
        head_width: int,
        pooling_head_dim: int,
        rngs: nnx.Rngs,
    ):
        kwargs, variant = {"dtype": config.dtype, "rngs": rngs}, config.variant
        embedding = variant.embedding_dim or 4 * width
        self.patch_size, self.mask_padding = config.patch_size, variant.mask_padding
        self.activation = ACTIVATIONS[variant.activation]
        self.activates_embedding = variant.embedding_activation == "once"
        self.stacked = tuple(picture.name for picture in inputs.stacked)
        self.conditioning = Conditioning(
            width,
            embedding,
            levels=inputs.levels,
            time_input=variant.time_input,
            activation=variant.activation,
            **kwargs,
        )
        text_width, reads_text = inputs.text_width, inputs.text_width is not None
        pooled = {"head_dim": pooling_head_dim, "kind": variant.pooling, **kwargs}
        self.pooling = AttentionPooling(text_width, embedding, **pooled) if reads_text else None
        self.text_projection = (
            linear(text_width, variant.text_projection, **kwargs)
            if reads_text and variant.text_projection
            else None
        )
        out_channels = 3 * (1 + variant.predicts_variance)
        pixels, pixel_channels = config.patch_size**2, config.pixel_channels
        self.conv_in = conv(inputs.channels * pixels, width, **kwargs)
        self.norm_out = GroupNorm(head_width, groups=config.norm_groups, rngs=rngs)
        self.conv_out = conv(
            head_width, (pixel_channels or out_channels) * pixels, zero=not pixel_channels, **kwargs
        )
        self.pixel_head = (
            PixelHead(pixel_channels, inputs.channels, out_channels, self.activation, **kwargs)
            if pixel_channels
            else None
        )
        self.added = (
            Added(
                inputs,
                width=width,
                embedding=embedding,
                patch_size=config.patch_size,
                activation=variant.activation,
                **kwargs,
            )
            if inputs.adds
            else None
        )

    def attentions(self) -> Iterable[ImageAttention]:
        """All attentions over the text, in the order in which they run."""
        raise NotImplementedError

    def trunk(self, x: Features, embedding: Embedding, text: TextState, gather: Gather) -> Features:
        """Everything between stem and head."""
        raise NotImplementedError

    def encode(self, conditions: Conditions, *, gather: Gather = as_they_are) -> Encoded:
        """The conditions as they are read at every step, worked out once for all steps.

        Args:
            conditions: pictures are float, in [-1, 1] and of any size; "low_res" is noised to the
                number "aug_level", in [0, 1] or a step's number as `time_input` says.
        """
        others = dataclasses.replace(conditions, text=None, mask=None)
        if self.pooling is None:
            nothing = (None,) * len(list(self.attentions()))
            return Encoded(TextState(pooled=None, keys_values=nothing, mask=None), others)
        return Encoded(self._encode_text(conditions.text, conditions.mask, gather), others)

    def _encode_text(self, text: TextEmbeddings, mask: TextMask, gather: Gather) -> TextState:
        if not self.mask_padding:
            mask = jnp.ones_like(mask)

        def run(layer, text, call):
            # For the backward pass weights are gathered again, which is cheaper than keeping
            # those of all attentions.
            return run_blocks([layer], text, [None], call, remat="full", gather=gather)[0]

        pooled = run(self.pooling, text, lambda pooling, text, _: pooling(text, mask))
        if self.text_projection is not None:
            text = whole(self.text_projection, gather)(text)
        keys_values = tuple(
            run(layer, text, lambda layer, text, _: layer.text_keys_values(text))
            for layer in self.attentions()
        )
        return TextState(pooled=pooled, keys_values=keys_values, mask=mask)

    def __call__(
        self, z: Images, noise_level: NoiseLevel, encoded: Encoded, *, gather: Gather = as_they_are
    ) -> Features:
        """z_t -> prediction, both (batch, height, width, 3); the result is float32.

        A network that predicts its variance gives 6 channels, the last 3 for that.

        Args:
            z: height and width are multiples of `config.size_divisor`.
            noise_level: log-SNR, or the step's number, as `time_input` says.
            encoded: what `encode` gave.
            gather: brings a block's sharded parameters together where the block runs.
        """
        others = encoded.others
        embedding = whole(self.conditioning, gather)(
            noise_level, encoded.text.pooled, others.numbers
        )
        inputs = [z, *(at_size_of(z, others.pictures[name]) for name in self.stacked)]
        inputs = jnp.concatenate(inputs, axis=-1)
        x = whole(self.conv_in, gather)(ops.space_to_depth(inputs, self.patch_size))
        if self.added is not None:
            added = whole(self.added, gather)
            embedding = added.to_embedding(embedding, others.numbers, others.label)
            x = added.to_features(x, z, others.pictures, others.shown)
        if self.activates_embedding:
            embedding = self.activation(embedding)
        x = self.trunk(x, embedding, encoded.text, gather)
        x = whole(self.conv_out, gather)(self.norm_out(x, activation=self.activation))
        x = ops.depth_to_space(x, self.patch_size)
        if self.pixel_head is not None:
            x = whole(self.pixel_head, gather)(x, inputs)
        return x.astype(jnp.float32)
