"""The Efficient U-Net of the super-resolution stages (section 2.5, appendix B and F.2-F.3)."""

from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx

from imagen_jax.arrays import (
    AugLevel,
    Embedding,
    Features,
    Images,
    LogSNR,
    TextEmbeddings,
    TextMask,
)
from imagen_jax.config import EfficientUNetConfig
from imagen_jax.models.attention import AttentionPooling, ImageAttention, TextState
from imagen_jax.models.layers import (
    Conditioning,
    GroupNorm,
    ResBlock,
    conv,
    depth_to_space,
    space_to_depth,
    upsample,
    with_low_res,
)


class Block(nnx.Module):
    """What DBlock and UBlock share: residual blocks, then attention (figures A.28, A.29)."""

    def __init__(
        self,
        index: int,
        embedding: int,
        *,
        config: EfficientUNetConfig,
        text_width: int,
        rngs: nnx.Rngs,
    ):
        channels = config.channels[index]
        kwargs = {"dtype": config.dtype, "rngs": rngs}
        count = config.num_res_blocks[index]
        self.res_blocks = nnx.List(
            [ResBlock(channels, channels, embedding, **kwargs) for _ in range(count)]
        )
        self.attention = (
            ImageAttention(
                channels, text_width=text_width, num_heads=config.num_heads,
                head_dim=2 * channels // config.num_heads,
                self_attention=config.self_attention[index], **kwargs,
            )
            if config.text_attention[index]
            else None
        )  # fmt: skip

    def run(self, x: Images, embedding: Embedding, keys_values: Iterator, mask: TextMask) -> Images:
        for res_block in self.res_blocks:
            x = res_block(x, embedding)
        return x if self.attention is None else self.attention(x, next(keys_values), mask)


class DBlock(Block):
    """A convolution with the block's stride comes first, so that the rest is cheap."""

    def __init__(self, index: int, in_channels: int, embedding: int, *, config, text_width, rngs):
        super().__init__(index, embedding, config=config, text_width=text_width, rngs=rngs)
        self.conv = conv(
            in_channels, config.channels[index], stride=config.strides[index],
            dtype=config.dtype, rngs=rngs,
        )  # fmt: skip

    def __call__(self, x, embedding, keys_values, mask):
        return self.run(self.conv(x), embedding, keys_values, mask)


class UBlock(Block):
    """The mirror: the up-sampling and its convolution come last."""

    def __init__(self, index: int, out_channels: int, embedding: int, *, config, text_width, rngs):
        super().__init__(index, embedding, config=config, text_width=text_width, rngs=rngs)
        self.upsample = config.strides[index] == 2
        self.conv = conv(config.channels[index], out_channels, dtype=config.dtype, rngs=rngs)

    def __call__(self, x, embedding, keys_values, mask):
        x = self.run(x, embedding, keys_values, mask)
        return self.conv(upsample(x) if self.upsample else x)


class EfficientUNet(nnx.Module):
    """Predicts eps, x0 or v from z_t, its log-SNR, a low-resolution picture and a text.

    Without self-attention it is convolutions and text cross-attention, so it trains on crops
    and runs on any size.

    Args:
        config: sizes.
        text_width: width of the text embeddings.
        low_res: whether a low-resolution picture and its aug_level are inputs.
    """

    def __init__(
        self, config: EfficientUNetConfig, *, text_width: int, low_res: bool, rngs: nnx.Rngs
    ):
        width, embedding = config.channels[0], 4 * config.channels[0]
        patch_channels = 3 * config.patch_size**2
        kwargs = {"dtype": config.dtype, "rngs": rngs}
        self.patch_size = config.patch_size
        self.conditioning = Conditioning(width, embedding, augmented=low_res, **kwargs)
        head_dim = text_width // config.num_heads
        self.pooling = AttentionPooling(text_width, embedding, head_dim=head_dim, **kwargs)
        self.conv_in = conv((2 if low_res else 1) * patch_channels, width, **kwargs)
        outer = [width, *config.channels[:-1]]
        shared = {"config": config, "text_width": text_width, "rngs": rngs}
        self.down = nnx.List([DBlock(i, c, embedding, **shared) for i, c in enumerate(outer)])
        self.up = nnx.List([UBlock(i, c, embedding, **shared) for i, c in enumerate(outer)][::-1])
        self.norm_out = GroupNorm(width, rngs=rngs)
        self.conv_out = conv(width, patch_channels, zero=True, **kwargs)

    def encode_text(self, text: TextEmbeddings, mask: TextMask) -> TextState:
        """The text's part of every layer, once per prompt rather than once per step."""
        attentions = [block.attention for block in [*self.down, *self.up] if block.attention]
        return TextState(
            pooled=self.pooling(text, mask),
            keys_values=tuple(attention.text_keys_values(text) for attention in attentions),
            mask=mask,
        )

    def __call__(
        self, z: Images, log_snr: LogSNR, text: TextState,
        low_res: Features | None = None, aug_level: AugLevel | None = None,
    ) -> Images:  # fmt: skip
        """z_t -> prediction, both (batch, height, width, 3); the result is float32.

        Height and width are multiples of `config.size_divisor`. `low_res` (any smaller size)
        is already noised to `aug_level`.
        """
        embedding = self.conditioning(log_snr, text.pooled, aug_level)
        context = (embedding, iter(text.keys_values), text.mask)
        x = self.conv_in(space_to_depth(with_low_res(z, low_res), self.patch_size))
        skips = [x]
        for block in self.down:
            x = block(x, *context)
            skips.append(x)
        x = skips.pop()
        for block in self.up:
            x = block(x, *context)
            x = x + skips.pop() * 2**-0.5
        x = self.conv_out(nnx.silu(self.norm_out(x)))
        return depth_to_space(x, self.patch_size).astype(jnp.float32)
