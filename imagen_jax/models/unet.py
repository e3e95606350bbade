"""The ADM-family U-Net: the paper's base stage (appendix F.1), and DeepFloyd IF's I and II."""

import itertools
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
from flax import nnx

from imagen_jax.arrays import Embedding, Features
from imagen_jax.config import NetworkInputs, UNetConfig
from imagen_jax.config.choices import Remat
from imagen_jax.models.attention import ImageAttention, KeysValues, TextState
from imagen_jax.models.blocks import Gather, run_blocks
from imagen_jax.models.conditional import ConditionalUNet
from imagen_jax.models.layers import ResBlock
from imagen_jax.ops.resampling import Resample

TextParts = Sequence[KeysValues | None]
"""Keys and values of the text, one pair for each block of a level; None where the level does not
attend, and of a network without text."""


def _res_block(
    config: UNetConfig, in_channels: int, channels: int, resample: Resample | None, rngs: nnx.Rngs
) -> ResBlock:
    return ResBlock(
        in_channels,
        channels,
        config.variant.embedding_dim or 4 * config.embed_dim,
        resample=resample,
        norm_groups=config.norm_groups,
        activation=config.variant.activation,
        embedding_activation=config.variant.embedding_activation,
        residual_scale=config.variant.residual_scale,
        dtype=config.dtype,
        rngs=rngs,
    )


def _attention(
    config: UNetConfig, channels: int, text_width: int | None, rngs: nnx.Rngs
) -> ImageAttention:
    return ImageAttention(
        channels,
        text_width=text_width and (config.variant.text_projection or text_width),
        num_heads=max(channels // config.head_dim, 1),
        head_dim=config.head_dim,
        self_attention=True,
        norm_groups=config.norm_groups,
        text_norm=config.variant.text_norm,
        dtype=config.dtype,
        rngs=rngs,
    )


class Level(nnx.Module):
    """Residual blocks of one resolution, each followed by its attention if the level attends.

    Args:
        in_channels: of each block's input.
        skips: of these, those of what going down has handed on.
        channels: of every block's output.
        resample: "down" or "up" ends the level with a resampling block.
        remat: what the backward pass keeps of the level.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        attends: bool,
        resample: Resample | None,
        remat: Remat,
        config: UNetConfig,
        text_width: int | None,
        rngs: nnx.Rngs,
        skips: Sequence[int] = (),
    ):
        self.blocks = nnx.List(
            [_res_block(config, width, channels, None, rngs) for width in in_channels]
        )
        self.attentions = nnx.List(
            [_attention(config, channels, text_width, rngs) for _ in in_channels if attends]
        )
        self.resample = _res_block(config, channels, channels, resample, rngs) if resample else None
        self.remat = remat
        # Neighbours of equal widths have equal shapes, so they can be one scan.
        widths = zip(in_channels, skips or in_channels, strict=True)
        self.runs = tuple(len(list(run)) for _, run in itertools.groupby(widths))

    def __call__(
        self,
        x: Features,
        embedding: Embedding,
        text: TextState,
        keys_values: TextParts,
        gather: Gather,
        skips: Sequence[Features] | None = None,
    ) -> list[Features]:
        """Results of all blocks, the resampling one last; going up, each reads its skip."""

        def call(modules, x, given):
            block, attention = modules
            skip, text_keys_values = given
            x = block(x if skip is None else jnp.concatenate([x, skip], -1), embedding)
            return x if attention is None else attention(x, text_keys_values, text.mask)

        count = len(self.blocks)
        modules = list(zip(self.blocks, self.attentions or [None] * count, strict=True))
        inputs = list(zip(skips or [None] * count, keys_values, strict=True))
        outputs = [x]
        for run in self.runs:
            part = slice(len(outputs) - 1, len(outputs) - 1 + run)
            outputs += run_blocks(
                modules[part], outputs[-1], inputs[part], call, remat=self.remat, gather=gather
            )
        if self.resample is not None:
            outputs += run_blocks(
                [self.resample],
                outputs[-1],
                [None],
                lambda block, x, _: block(x, embedding),
                remat=self.remat,
                gather=gather,
            )
        return outputs[1:]


class Middle(nnx.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(
        self,
        channels: int,
        *,
        remat: Remat,
        config: UNetConfig,
        text_width: int | None,
        rngs: nnx.Rngs,
    ):
        self.block_1 = _res_block(config, channels, channels, None, rngs)
        self.attention = _attention(config, channels, text_width, rngs)
        self.block_2 = _res_block(config, channels, channels, None, rngs)
        self.remat = remat

    def __call__(
        self,
        x: Features,
        embedding: Embedding,
        text: TextState,
        keys_values: KeysValues | None,
        gather: Gather,
    ) -> Features:
        def call(modules, x, keys_values):
            block_1, attention, block_2 = modules
            x = attention(block_1(x, embedding), keys_values, text.mask)
            return block_2(x, embedding)

        modules = (self.block_1, self.attention, self.block_2)
        return run_blocks([modules], x, [keys_values], call, remat=self.remat, gather=gather)[-1]


class UNet(ConditionalUNet):
    """The base's U-Net; its config's fields also make it DeepFloyd IF's.

    Args:
        config: sizes.
        inputs: what it is told beside z.
        resolution: side of the pictures it is built for; it decides which levels attend.
    """

    def __init__(
        self, config: UNetConfig, inputs: NetworkInputs, *, resolution: int, rngs: nnx.Rngs
    ):
        widths = [config.embed_dim * mult for mult in config.channel_mult]
        super().__init__(
            config,
            inputs,
            width=config.embed_dim,
            head_width=widths[0],
            pooling_head_dim=config.head_dim,
            rngs=rngs,
        )
        remat = config.remat or ("none",) * len(widths)
        shared = {"config": config, "text_width": inputs.text_width, "rngs": rngs}

        def level(
            i: int, in_channels: list[int], resample: Resample | None, skips: Sequence[int] = ()
        ) -> Level:
            side = resolution // config.patch_size // 2**i
            return Level(
                in_channels,
                widths[i],
                attends=side in config.attention_resolutions,
                resample=resample,
                remat=remat[i],
                skips=skips,
                **shared,
            )

        last = len(widths) - 1
        skips, channels = [config.embed_dim], config.embed_dim
        self.down = nnx.List([])
        for i, count in enumerate(config.num_res_blocks):
            in_channels = [channels] + [widths[i]] * (count - 1)
            self.down.append(level(i, in_channels, "down" if i < last else None))
            skips += [widths[i]] * (count + (i < last))
            channels = widths[i]
        self.middle = Middle(channels, remat=remat[last], **shared)
        self.up = nnx.List([])
        for i in reversed(range(len(widths))):
            before = [channels] + [widths[i]] * config.num_res_blocks[i]
            own = [skips.pop() for _ in before]
            in_channels = [inside + skip for inside, skip in zip(before, own, strict=True)]
            self.up.append(level(i, in_channels, "up" if i > 0 else None, own))
            channels = widths[i]

    def attentions(self) -> Iterable[ImageAttention]:
        for level in self.down:
            yield from level.attentions
        yield self.middle.attention
        for level in self.up:
            yield from level.attentions

    def trunk(self, x: Features, embedding: Embedding, text: TextState, gather: Gather) -> Features:
        keys_values = iter(text.keys_values)

        def take(level: Level) -> TextParts:
            return [next(keys_values) if level.attentions else None for _ in level.blocks]

        skips = [x]
        for level in self.down:
            skips += level(skips[-1], embedding, text, take(level), gather)
        x = self.middle(skips[-1], embedding, text, next(keys_values), gather)
        for level in self.up:
            own = [skips.pop() for _ in level.blocks]
            x = level(x, embedding, text, take(level), gather, own)[-1]
        return x
