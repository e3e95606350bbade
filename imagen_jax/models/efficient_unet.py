"""The Efficient U-Net of the super-resolution stages (section 2.5, appendix B and F.2-F.3)."""

from collections.abc import Iterable, Iterator

from flax import nnx

from imagen_jax.arrays import Embedding, Features
from imagen_jax.config import EfficientUNetConfig, NetworkInputs
from imagen_jax.models.attention import ImageAttention, KeysValues, TextState
from imagen_jax.models.blocks import Gather, run_blocks, whole
from imagen_jax.models.conditional import ConditionalUNet
from imagen_jax.models.layers import ResBlock, conv

TextParts = Iterator[KeysValues | None]
"""Keys and values of the text for every attention that is still to run."""


class Block(nnx.Module):
    """What DBlock and UBlock share: residual blocks and attention (figures A.28, A.29).

    Without text (`text_width` None) attention is over the picture alone, or there is none.
    """

    def __init__(
        self, index: int, *, config: EfficientUNetConfig, text_width: int | None, rngs: nnx.Rngs
    ):
        channels, count = config.channels[index], config.num_res_blocks[index]
        kwargs = {"norm_groups": config.norm_groups, "dtype": config.dtype, "rngs": rngs}
        embedding = 4 * config.channels[0]
        self.remat = config.remat[index] if config.remat else "none"
        self.res_blocks = nnx.List(
            [ResBlock(channels, channels, embedding, **kwargs) for _ in range(count)]
        )
        self.attention_per_res_block = config.attention_per_res_block
        attends = config.text_attention[index] if text_width else config.self_attention[index]
        attentions = count if config.attention_per_res_block else 1
        self.attentions = nnx.List(
            [
                ImageAttention(
                    channels,
                    text_width=text_width,
                    num_heads=config.num_heads,
                    head_dim=2 * channels // config.num_heads,
                    self_attention=config.self_attention[index],
                    **kwargs,
                )
                for _ in range(attentions if attends else 0)
            ]
        )

    def run(
        self,
        x: Features,
        embedding: Embedding,
        text: TextState,
        keys_values: TextParts,
        gather: Gather,
    ) -> Features:
        """All residual blocks, with attention after each or after the last."""

        def attend(attention, x, keys_values):
            return attention(x, keys_values, text.mask)

        def call(modules, x, keys_values):
            res_block, attention = modules
            x = res_block(x, embedding)
            return x if attention is None else attend(attention, x, keys_values)

        options = {"remat": self.remat, "gather": gather}
        attentions, own = list(self.attentions), [next(keys_values) for _ in self.attentions]
        nothing = [None] * len(self.res_blocks)
        each = self.attention_per_res_block and attentions
        units = list(zip(self.res_blocks, attentions if each else nothing, strict=True))
        x = run_blocks(units, x, own if each else nothing, call, **options)[-1]
        if attentions and not each:
            x = run_blocks(attentions, x, own, attend, **options)[-1]
        return x


class DBlock(Block):
    """A convolution with the block's stride comes first, so that the rest is cheap."""

    def __init__(self, index: int, in_channels: int, *, config, text_width, rngs):
        super().__init__(index, config=config, text_width=text_width, rngs=rngs)
        self.conv = conv(
            in_channels,
            config.channels[index],
            stride=config.strides[index],
            dtype=config.dtype,
            rngs=rngs,
        )

    def __call__(self, x, *context):
        *_, gather = context
        return self.run(whole(self.conv, gather)(x), *context)


class UBlock(Block):
    """The mirror: the up-sampling and its convolution come last."""

    def __init__(self, index: int, out_channels: int, *, config, text_width, rngs):
        super().__init__(index, config=config, text_width=text_width, rngs=rngs)
        self.upsample = config.strides[index] == 2
        self.conv = conv(config.channels[index], out_channels, dtype=config.dtype, rngs=rngs)

    def __call__(self, x, *context):
        *_, gather = context
        x = self.run(x, *context)
        last = whole(self.conv, gather)
        return last.of_upsampled(x) if self.upsample else last(x)


class EfficientUNet(ConditionalUNet):
    """The super-resolution stages' U-Net.

    Without self-attention it is convolutions and text cross-attention, so it trains on crops
    and runs on any size.

    Args:
        config: sizes.
        inputs: what it is told beside z.
    """

    def __init__(self, config: EfficientUNetConfig, inputs: NetworkInputs, *, rngs: nnx.Rngs):
        width, text_width = config.channels[0], inputs.text_width
        super().__init__(
            config,
            inputs,
            width=width,
            head_width=width,
            pooling_head_dim=max((text_width or 0) // config.num_heads, 1),
            rngs=rngs,
        )
        outer = [width, *config.channels[:-1]]
        shared = {"config": config, "text_width": text_width, "rngs": rngs}
        self.down = nnx.List([DBlock(i, c, **shared) for i, c in enumerate(outer)])
        self.up = nnx.List([UBlock(i, c, **shared) for i, c in enumerate(outer)][::-1])

    def attentions(self) -> Iterable[ImageAttention]:
        for block in [*self.down, *self.up]:
            yield from block.attentions

    def trunk(self, x: Features, embedding: Embedding, text: TextState, gather: Gather) -> Features:
        context = (embedding, text, iter(text.keys_values), gather)
        skips = [x]
        for block in self.down:
            x = block(x, *context)
            skips.append(x)
        x = skips.pop()
        for block in self.up:
            x = block(x, *context)
            x = x + skips.pop() * 2**-0.5
        return x
