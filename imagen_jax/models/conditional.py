"""What the base U-Net and the Efficient U-Net share: conditioning, stem and head."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from flax import nnx

from imagen_jax import ops
from imagen_jax.arrays import (
    Embedding,
    Features,
    Images,
    NoiseLevel,
    TextEmbeddings,
    TextMask,
)
from imagen_jax.config import EfficientUNetConfig, UNetConfig
from imagen_jax.models.attention import AttentionPooling, ImageAttention, TextState
from imagen_jax.models.blocks import Gather, as_they_are, run_blocks, whole
from imagen_jax.models.layers import (
    ACTIVATIONS,
    Conditioning,
    GroupNorm,
    conv,
    linear,
    with_low_res,
)


class PixelHead(nnx.Module):
    """Two convolutions of whole pixels: they hide the borders of the patches, and see the input.

    Args:
        channels: of what the patches gave.
        in_channels: of the network's input.
        out_channels: of the prediction, which starts as zero.
    """

    def __init__(
        self, channels: int, in_channels: int, out_channels: int,
        activation: Callable[[jax.Array], jax.Array], *, dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.activation = activation
        self.conv_1 = conv(channels + in_channels, channels, dtype=dtype, rngs=rngs)
        self.conv_2 = conv(channels, out_channels, zero=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features, inputs: Features) -> Features:
        x = jnp.concatenate([x, inputs.astype(x.dtype)], axis=-1)
        return self.conv_2(self.activation(self.conv_1(x)))


class ConditionalUNet(nnx.Module):
    """Predicts eps, x0 or v from z_t, its noise, a text and maybe a low-resolution picture.

    Subclasses add the blocks: `trunk` runs them and `attentions` lists theirs.

    Args:
        config: of the subclass.
        width: channels after the stem.
        head_width: channels before the head.
        text_width: width of the text embeddings.
        pooling_head_dim: width of the heads of the attention pooling.
        low_res: whether a low-resolution picture and its aug_level are inputs.
    """

    def __init__(
        self, config: UNetConfig | EfficientUNetConfig, *, width: int, head_width: int,
        text_width: int, pooling_head_dim: int, low_res: bool, rngs: nnx.Rngs,
    ):  # fmt: skip
        kwargs = {"dtype": config.dtype, "rngs": rngs}
        embedding = config.embedding_dim or 4 * width
        self.patch_size, self.mask_padding = config.patch_size, config.mask_padding
        self.activation = ACTIVATIONS[config.activation]
        self.activates_embedding = config.embedding_activation == "once"
        self.conditioning = Conditioning(
            width, embedding, augmented=low_res, time_input=config.time_input,
            activation=config.activation, **kwargs,
        )  # fmt: skip
        self.pooling = AttentionPooling(
            text_width, embedding, head_dim=pooling_head_dim, kind=config.pooling, **kwargs
        )
        self.text_projection = (
            linear(text_width, config.text_projection, **kwargs) if config.text_projection else None
        )
        in_channels, out_channels = 3 * (1 + low_res), 3 * (1 + config.predicts_variance)
        pixels, pixel_channels = config.patch_size**2, config.pixel_channels
        self.conv_in = conv(in_channels * pixels, width, **kwargs)
        self.norm_out = GroupNorm(head_width, groups=config.norm_groups, rngs=rngs)
        self.conv_out = conv(
            head_width, (pixel_channels or out_channels) * pixels, zero=not pixel_channels, **kwargs
        )
        self.pixel_head = (
            PixelHead(pixel_channels, in_channels, out_channels, self.activation, **kwargs)
            if pixel_channels
            else None
        )

    def attentions(self) -> Iterable[ImageAttention]:
        """All attentions over the text, in the order in which they run."""
        raise NotImplementedError

    def trunk(self, x: Features, embedding: Embedding, text: TextState, gather: Gather) -> Features:
        """Everything between stem and head."""
        raise NotImplementedError

    def encode_text(
        self, text: TextEmbeddings, mask: TextMask, *, gather: Gather = as_they_are
    ) -> TextState:
        """The text's part of every layer, once per prompt rather than once per step."""
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
        self, z: Images, noise_level: NoiseLevel, text: TextState,
        low_res: Features | None = None, aug_level: NoiseLevel | None = None, *,
        gather: Gather = as_they_are,
    ) -> Features:  # fmt: skip
        """z_t -> prediction, both (batch, height, width, 3); the result is float32.

        A network that predicts its variance gives 6 channels, the last 3 for that.

        Args:
            z: height and width are multiples of `config.size_divisor`.
            noise_level: log-SNR, or the step's number, as `time_input` says.
            aug_level: in [0, 1], or a step's number too.
            low_res: of any smaller size, already noised to `aug_level`.
            gather: brings a block's sharded parameters together where the block runs.
        """
        embedding = whole(self.conditioning, gather)(noise_level, text.pooled, aug_level)
        if self.activates_embedding:
            embedding = self.activation(embedding)
        inputs = with_low_res(z, low_res)
        x = whole(self.conv_in, gather)(ops.space_to_depth(inputs, self.patch_size))
        x = self.trunk(x, embedding, text, gather)
        x = whole(self.conv_out, gather)(self.norm_out(x, activation=self.activation))
        x = ops.depth_to_space(x, self.patch_size)
        if self.pixel_head is not None:
            x = whole(self.pixel_head, gather)(x, inputs)
        return x.astype(jnp.float32)
