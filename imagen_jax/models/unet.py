"""The ADM-family U-Net of the paper's base stage (appendix F.1)."""

from collections.abc import Iterator, Sequence

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
from imagen_jax.config import UNetConfig
from imagen_jax.models.attention import AttentionPooling, ImageAttention, TextState
from imagen_jax.models.layers import (
    Conditioning,
    GroupNorm,
    ResBlock,
    conv,
    depth_to_space,
    space_to_depth,
    with_low_res,
)


def _res_block(
    config: UNetConfig, in_channels: int, channels: int, resample: str | None, rngs: nnx.Rngs
) -> ResBlock:
    embedding = 4 * config.embed_dim
    return ResBlock(
        in_channels, channels, embedding, resample=resample, dtype=config.dtype, rngs=rngs
    )


def _attention(
    config: UNetConfig, channels: int, text_width: int, rngs: nnx.Rngs
) -> ImageAttention:
    return ImageAttention(
        channels, text_width=text_width, num_heads=max(channels // config.head_dim, 1),
        head_dim=config.head_dim, self_attention=True, dtype=config.dtype, rngs=rngs,
    )  # fmt: skip


class Level(nnx.Module):
    """Residual blocks of one resolution, each followed by its attention if the level attends.

    Args:
        in_channels: of each block's input.
        channels: of every block's output.
        resample: "down" or "up" ends the level with a resampling block.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, *, attends: bool, resample: str | None,
        config: UNetConfig, text_width: int, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.blocks = nnx.List(
            [_res_block(config, width, channels, None, rngs) for width in in_channels]
        )
        self.attentions = nnx.List(
            [_attention(config, channels, text_width, rngs) for _ in in_channels if attends]
        )
        self.resample = _res_block(config, channels, channels, resample, rngs) if resample else None

    def run_block(
        self, index: int, x: Features, embedding: Embedding, keys_values: Iterator, mask: TextMask
    ) -> Features:
        """Block `index` and its attention, which takes the next of `keys_values`."""
        x = self.blocks[index](x, embedding)
        return self.attentions[index](x, next(keys_values), mask) if self.attentions else x


class Middle(nnx.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, *, config: UNetConfig, text_width: int, rngs: nnx.Rngs):
        self.block_1 = _res_block(config, channels, channels, None, rngs)
        self.attention = _attention(config, channels, text_width, rngs)
        self.block_2 = _res_block(config, channels, channels, None, rngs)

    def __call__(
        self, x: Features, embedding: Embedding, keys_values: Iterator, mask: TextMask
    ) -> Features:
        x = self.attention(self.block_1(x, embedding), next(keys_values), mask)
        return self.block_2(x, embedding)


class UNet(nnx.Module):
    """Predicts eps, x0 or v from z_t, its log-SNR and a text.

    Args:
        config: sizes.
        resolution: side of the pictures it is built for; it decides which levels attend.
        text_width: width of the text embeddings.
        low_res: whether a low-resolution picture and its aug_level are inputs.
    """

    def __init__(
        self, config: UNetConfig, *, resolution: int, text_width: int, low_res: bool, rngs: nnx.Rngs
    ):
        width, embedding = config.embed_dim, 4 * config.embed_dim
        patch_channels = 3 * config.patch_size**2
        kwargs = {"dtype": config.dtype, "rngs": rngs}
        self.patch_size = config.patch_size
        self.conditioning = Conditioning(width, embedding, augmented=low_res, **kwargs)
        self.pooling = AttentionPooling(text_width, embedding, head_dim=config.head_dim, **kwargs)
        self.conv_in = conv((2 if low_res else 1) * patch_channels, width, **kwargs)

        def level(i: int, in_channels: list[int], resample: str | None) -> Level:
            side = resolution // config.patch_size // 2**i
            return Level(
                in_channels, widths[i], attends=side in config.attention_resolutions,
                resample=resample, config=config, text_width=text_width, rngs=rngs,
            )  # fmt: skip

        widths = [width * mult for mult in config.channel_mult]
        last = len(widths) - 1
        skips, channels = [width], width
        self.down = nnx.List([])
        for i, count in enumerate(config.num_res_blocks):
            in_channels = [channels] + [widths[i]] * (count - 1)
            self.down.append(level(i, in_channels, "down" if i < last else None))
            skips += [widths[i]] * (count + (i < last))
            channels = widths[i]
        self.middle = Middle(channels, config=config, text_width=text_width, rngs=rngs)
        self.up = nnx.List([])
        for i in reversed(range(len(widths))):
            before = [channels] + [widths[i]] * config.num_res_blocks[i]
            in_channels = [inside + skips.pop() for inside in before]
            self.up.append(level(i, in_channels, "up" if i > 0 else None))
            channels = widths[i]
        self.norm_out = GroupNorm(channels, rngs=rngs)
        self.conv_out = conv(channels, patch_channels, zero=True, **kwargs)

    def encode_text(self, text: TextEmbeddings, mask: TextMask) -> TextState:
        """The text's part of every layer, once per prompt rather than once per step."""
        down, up = (
            [a for level in side for a in level.attentions] for side in (self.down, self.up)
        )
        attentions = [*down, self.middle.attention, *up]
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
        attention = (embedding, iter(text.keys_values), text.mask)
        x = self.conv_in(space_to_depth(with_low_res(z, low_res), self.patch_size))
        skips = [x]
        for level in self.down:
            for index in range(len(level.blocks)):
                x = level.run_block(index, x, *attention)
                skips.append(x)
            if level.resample is not None:
                x = level.resample(x, embedding)
                skips.append(x)
        x = self.middle(x, *attention)
        for level in self.up:
            for index in range(len(level.blocks)):
                x = level.run_block(index, jnp.concatenate([x, skips.pop()], -1), *attention)
            if level.resample is not None:
                x = level.resample(x, embedding)
        x = self.conv_out(nnx.silu(self.norm_out(x)))
        return depth_to_space(x, self.patch_size).astype(jnp.float32)
