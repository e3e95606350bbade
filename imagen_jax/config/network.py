"""Sizes of the networks, as frozen dataclasses that check themselves."""

import dataclasses
import math
from typing import Any, ClassVar, Literal, get_args

import pydantic

from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import (
    Activation,
    Dtype,
    EmbeddingActivation,
    FeedForwardKind,
    Pooling,
    Remat,
    TextNorm,
    TimeInput,
)
from imagen_jax.config.rules import (
    require,
    require_all_positive,
    require_at_most,
    require_choice,
    require_positive,
)

_MOST_BLOCKS = 1000
"""Of a network; those of the largest published ones are a tenth of it."""
_MOST_LEVELS = 16
_WIDEST = 2**20
"""Channels, heads and the like."""
_MOST_PIECES = 2**24
"""Of a vocabulary."""
MOST_TOKENS = 2**16
"""Of a caption."""


def _require_sinusoid(width: int, name: str) -> None:
    """The time's sinusoid has as many sines as cosines, at two frequencies or more."""
    require(
        width >= 4 and width % 2 == 0,
        f"{name} is {width}; it must be even and at least 4.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetVariant(Checked):
    """Where DeepFloyd IF's stages I and II differ from the paper's base, a network of the same
    family. The defaults are the paper's."""

    activation: Activation = "swish"
    """`gelu` is the exact one, by the error function."""
    time_input: TimeInput = "log_snr"
    """What the network reads of the noise: log-SNR, or the number of a discrete chain's step."""
    embedding_activation: EmbeddingActivation = "per_block"
    """Where the sum of the embeddings is activated: in every residual block, or `once` before
    the first."""
    embedding_dim: int | None = None
    """Width of the sum of the embeddings; None is four times the network's `embed_dim`."""
    residual_scale: float = 1.0
    """Factor on the sum of a residual block's two branches."""
    pooling: Pooling = "mean"
    """The query of the attention pooling is the tokens' mean; `token` adds a learned vector to
    it, attends to it too, and normalises what comes out."""
    text_projection: int | None = None
    """Width of one projection of the text that all attentions share; None for none."""
    text_norm: TextNorm = "layer"
    """Of the text in each attention: over a token's channels, or over 32 groups of channels of
    all tokens together."""
    mask_padding: bool = True
    """False attends to padding as to text; the paper does not say."""
    predicts_variance: bool = False
    """Three more output channels: where between its bounds the sampler's log-variance lies."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(
            self,
            activation=Activation,
            time_input=TimeInput,
            text_norm=TextNorm,
            pooling=Pooling,
            embedding_activation=EmbeddingActivation,
        )
        require_positive(self, "residual_scale")
        require(
            math.isfinite(self.residual_scale),
            f"UNetVariant.residual_scale is {self.residual_scale}; it must be finite.",
        )
        for name in ("text_projection", "embedding_dim"):
            if getattr(self, name) is not None:
                require_positive(self, name)
                require_at_most(self, _WIDEST, **{name: getattr(self, name)})

    @property
    def reads_padding(self) -> bool:
        """Whether the prediction depends on the embeddings of padding."""
        return not self.mask_padding or self.text_norm == "group"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelNetworkConfig(Checked):
    """What both kinds of U-Net have."""

    patch_size: int = 1
    """Side of the space-to-depth patches of the stem; 1 is the paper's, more is cheaper."""
    pixel_channels: int = 0
    """Channels of two convolutions of whole pixels that come last and hide the borders of the
    patches; 0 for none, as in the paper, which has no patches."""
    norm_groups: int = 32
    """Of the group normalisations; where channels are few, so that a group has several."""
    remat: tuple[Remat, ...] = ()
    """What the backward pass computes again, for each level of a U-Net, or each block of an
    Efficient U-Net and its mirror (see models/blocks.py); empty is `none` everywhere."""
    dtype: Dtype = "float32"
    """Of the computation; parameters are float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, dtype=Dtype)
        require_positive(self, "patch_size", "norm_groups")
        require(
            self.pixel_channels >= 0,
            f"pixel_channels is {self.pixel_channels}; it must not be negative.",
        )
        require_at_most(self, _WIDEST, patch_size=self.patch_size, norm_groups=self.norm_groups)

    def _require_remat(self, count: int, what: str) -> None:
        choices = get_args(Remat)
        for value in self.remat:
            require(
                value in choices, f"remat has {value!r}; it must be one of {', '.join(choices)}."
            )
        require(
            len(self.remat) in (0, count),
            f"remat has {len(self.remat)} entries; give none or {count}, one a {what}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig(PixelNetworkConfig):
    """ADM-family U-Net of the base stage (paper, appendix F.1; Dhariwal & Nichol 2021).

    The defaults are the paper's 64x64 base. `attention_resolutions` counts in pixels of the
    picture as the U-Net's levels see it: a level whose side is in the list attends.
    """

    kind: Literal["unet"] = "unet"
    embed_dim: int = 512
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: tuple[int, ...] = (3, 3, 3, 3)
    """Residual blocks of each level going down; one more going up, as in ADM."""
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    head_dim: int = 64
    variant: UNetVariant = UNetVariant()
    """Where it is not the paper's network but DeepFloyd IF's."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_older_files(cls, values: Any) -> Any:
        """Files written before 2026-11-29 have the variant's fields among the others."""
        if not isinstance(values, dict):
            return values
        names = {field.name for field in dataclasses.fields(UNetVariant)} & values.keys()
        own = {name: value for name, value in values.items() if name not in names}
        return own | {"variant": {name: values[name] for name in names}} if names else values

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "embed_dim", "head_dim")
        require_all_positive(self, "channel_mult", "num_res_blocks")
        _require_sinusoid(self.embed_dim, "UNetConfig.embed_dim")
        self._require_remat(len(self.channel_mult), "level")
        require(
            len(self.channel_mult) == len(self.num_res_blocks) > 0,
            f"UNetConfig has {len(self.channel_mult)} channel multipliers and "
            f"{len(self.num_res_blocks)} residual-block counts; there must be one of each a level.",
        )
        self._require_sane_sizes()

    def _require_sane_sizes(self) -> None:
        require_at_most(self, _MOST_LEVELS, levels=len(self.channel_mult))
        require_at_most(self, _MOST_BLOCKS, num_res_blocks=sum(self.num_res_blocks))
        require_at_most(
            self,
            _WIDEST,
            embed_dim=self.embed_dim,
            channel_mult=max(self.channel_mult),
            head_dim=self.head_dim,
        )
        require_at_most(self, _WIDEST, channels=self.embed_dim * max(self.channel_mult))

    def check_attention(self, resolution: int) -> None:
        """Raises a UsageError where attention is asked for and no level has it at this resolution;
        sides that are larger or smaller than those of the levels are left out."""
        first = resolution // self.patch_size
        sides = [first // 2**i for i in range(len(self.channel_mult))]
        require(
            not self.attention_resolutions or bool({*sides} & {*self.attention_resolutions}),
            f"UNetConfig.attention_resolutions is {self.attention_resolutions}; at resolution "
            f"{resolution} the levels have {', '.join(map(str, sides))}, so none would attend.",
        )

    @property
    def size_divisor(self) -> int:
        """Height and width must be divisible by this."""
        return self.patch_size * 2 ** (len(self.channel_mult) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientUNetConfig(PixelNetworkConfig):
    """Efficient U-Net of the super-resolution stages (paper, section 2.5, appendix F.2-F.3).

    One entry of each tuple per DBlock, from the highest resolution down. The defaults are
    the paper's 64->256 stage; 256->1024 has `self_attention` off everywhere.
    """

    kind: Literal["efficient_unet"] = "efficient_unet"
    channels: tuple[int, ...] = (128, 256, 512, 1024)
    num_res_blocks: tuple[int, ...] = (2, 4, 8, 8)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    self_attention: tuple[bool, ...] = (False, False, False, True)
    text_attention: tuple[bool, ...] = (False, False, False, True)
    attention_per_res_block: bool = False
    """Attention after every residual block of a block that attends, not only after its last;
    the paper's listing allows both readings."""
    num_heads: int = 8
    variant: ClassVar[UNetVariant] = UNetVariant()
    """That of the paper, always."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "num_heads")
        self._require_remat(len(self.channels), "block")
        for name in ("num_res_blocks", "strides", "self_attention", "text_attention"):
            require(
                len(getattr(self, name)) == len(self.channels) > 0,
                f"EfficientUNetConfig.{name} has {len(getattr(self, name))} entries and channels "
                f"has {len(self.channels)}; there must be one of each a block.",
            )
        require_all_positive(self, "channels", "num_res_blocks")
        require_at_most(self, _MOST_LEVELS, blocks=len(self.channels))
        require_at_most(self, _MOST_BLOCKS, num_res_blocks=sum(self.num_res_blocks))
        require_at_most(
            self,
            _WIDEST,
            channels=max(self.channels),
            num_heads=self.num_heads,
        )
        _require_sinusoid(self.channels[0], "EfficientUNetConfig.channels[0]")
        for i, text in enumerate(self.text_attention):
            require(
                text or not self.self_attention[i],
                f"EfficientUNetConfig.self_attention[{i}] is on and text_attention[{i}] is off; "
                "a block attends to itself only beside the text.",
            )
            require(
                not text or 2 * self.channels[i] % self.num_heads == 0,
                f"EfficientUNetConfig.num_heads is {self.num_heads}; it must divide twice the "
                f"channels of a block that attends, {2 * self.channels[i]}.",
            )
        require(
            all(stride in (1, 2) for stride in self.strides),
            f"EfficientUNetConfig.strides is {self.strides}; each stride must be 1 or 2.",
        )

    @property
    def size_divisor(self) -> int:
        """Height and width must be divisible by this."""
        divisor = self.patch_size
        for stride in self.strides:
            divisor *= stride
        return divisor


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config(Checked):
    """Sizes of a T5 encoder; the defaults are T5 v1.1 small."""

    vocab_size: int = 32128
    d_model: int = 512
    num_layers: int = 8
    num_heads: int = 6
    d_kv: int = 64
    d_ff: int = 1024
    feed_forward: FeedForwardKind = "gated-gelu"
    """T5 v1.1 has `gated-gelu`, the first T5 `relu` (Hugging Face's `feed_forward_proj`)."""
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    remat: Remat = "none"
    """As a U-Net's; other than `none` also runs the layers as one scan, which compiles sooner."""
    dtype: Dtype = "float32"
    """Of the computation, and of a frozen encoder's parameters; softmax and norms are float32
    always."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, feed_forward=FeedForwardKind, remat=Remat, dtype=Dtype)
        require_positive(
            self,
            "vocab_size",
            "d_model",
            "num_layers",
            "num_heads",
            "d_kv",
            "d_ff",
            "relative_attention_num_buckets",
            "relative_attention_max_distance",
        )
        require(
            self.relative_attention_num_buckets >= 4,
            f"T5Config.relative_attention_num_buckets is {self.relative_attention_num_buckets}; "
            "it must be at least 4.",
        )
        require(
            self.relative_attention_max_distance > self.relative_attention_num_buckets // 4,
            f"T5Config.relative_attention_max_distance is {self.relative_attention_max_distance}; "
            "it must be more than a quarter of relative_attention_num_buckets, "
            f"{self.relative_attention_num_buckets}.",
        )
        require_at_most(self, _MOST_BLOCKS, num_layers=self.num_layers)
        require_at_most(self, _MOST_PIECES, vocab_size=self.vocab_size)
        require_at_most(
            self,
            _WIDEST,
            d_model=self.d_model,
            d_ff=self.d_ff,
            num_heads=self.num_heads,
            d_kv=self.d_kv,
            relative_attention_num_buckets=self.relative_attention_num_buckets,
            relative_attention_max_distance=self.relative_attention_max_distance,
        )
        require_at_most(self, _WIDEST, inner_width=self.num_heads * self.d_kv)


T5_PRESETS: dict[str, T5Config] = {
    "small": T5Config(d_model=512, num_layers=8, num_heads=6, d_ff=1024),
    "base": T5Config(d_model=768, num_layers=12, num_heads=12, d_ff=2048),
    "large": T5Config(d_model=1024, num_layers=24, num_heads=16, d_ff=2816),
    "xl": T5Config(d_model=2048, num_layers=24, num_heads=32, d_ff=5120),
    "xxl": T5Config(d_model=4096, num_layers=24, num_heads=64, d_ff=10240),
}
"""The published sizes of T5 v1.1; the paper's encoder is `xxl`."""
