"""The configuration of one stage, as frozen dataclasses that check themselves.

A config is one stage; a cascade is three independent stages. A config is code
(`configs/*.py`), is overridden by typed flags, and travels as JSON with every checkpoint
and exported file. Fields beyond the paper say so and are off by default.
"""

import dataclasses
import math
from typing import Annotated, Literal

import pydantic

from imagen_jax.rules import require, require_choice, require_fraction, require_positive

Dtype = Literal["float32", "bfloat16"]
Schedule = Literal["cosine", "linear"]
Prediction = Literal["eps", "x0", "v"]
OptimizerName = Literal["adafactor", "adam"]
SamplerName = Literal["ancestral", "ddim", "dpm++"]
Thresholding = Literal["none", "static", "dynamic"]


class _Checked:
    """Base of all configs: no unknown field when read from JSON."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig(_Checked):
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
    patch_size: int = 1
    """Side of the space-to-depth patches of the stem; 1 is the paper's, more is cheaper."""
    dtype: Dtype = "float32"
    """Of the computation; parameters are float32."""

    def __post_init__(self) -> None:
        require_choice(self, dtype=Dtype)
        require_positive(self, "embed_dim", "head_dim", "patch_size")
        require(
            len(self.channel_mult) == len(self.num_res_blocks) > 0,
            f"UNetConfig has {len(self.channel_mult)} channel multipliers and "
            f"{len(self.num_res_blocks)} residual-block counts; there must be one of each a level.",
        )

    @property
    def size_divisor(self) -> int:
        """Height and width must be divisible by this."""
        return self.patch_size * 2 ** (len(self.channel_mult) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientUNetConfig(_Checked):
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
    num_heads: int = 8
    patch_size: int = 1
    """Side of the space-to-depth patches of the stem; 1 is the paper's, more is cheaper."""
    dtype: Dtype = "float32"
    """Of the computation; parameters are float32."""

    def __post_init__(self) -> None:
        require_choice(self, dtype=Dtype)
        require_positive(self, "num_heads", "patch_size")
        for name in ("num_res_blocks", "strides", "self_attention", "text_attention"):
            require(
                len(getattr(self, name)) == len(self.channels) > 0,
                f"EfficientUNetConfig.{name} has {len(getattr(self, name))} entries and channels "
                f"has {len(self.channels)}; there must be one of each a block.",
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
class T5Config(_Checked):
    """Sizes of a T5 v1.1 encoder; the defaults are T5 v1.1 small."""

    vocab_size: int = 32128
    d_model: int = 512
    num_layers: int = 8
    num_heads: int = 6
    d_kv: int = 64
    d_ff: int = 1024
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dtype: Dtype = "float32"
    """Of the computation; softmax and norms are float32 always."""

    def __post_init__(self) -> None:
        require_positive(
            self, "vocab_size", "d_model", "num_layers", "num_heads", "d_kv", "d_ff",
            "relative_attention_num_buckets", "relative_attention_max_distance",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(_Checked):
    """Where a stage's text embeddings come from."""

    t5: T5Config = T5Config()
    tokenizer: str = "captions"
    """`captions` (the small vocabulary that ships with the package) or a directory that
    holds a Hugging Face tokenizer."""
    max_length: int = 256
    """Tokens per caption; the paper does not state it."""
    train: bool = False
    """Train the encoder jointly with the U-Net. The paper's encoder is frozen."""
    source: str = ""
    """Weights of a frozen encoder: a Hugging Face T5 directory, or a stage (training
    directory or exported file) that trained or holds one."""

    def __post_init__(self) -> None:
        require_positive(self, "max_length")
        require(
            not (self.train and self.source),
            f"TextEncoderConfig.source is {self.source!r} and train is on; an encoder is "
            "either trained here or read from a source.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig(_Checked):
    """Forward process and loss. The defaults are the paper's."""

    schedule: Schedule = "cosine"
    prediction: Prediction = "eps"
    """What the U-Net predicts and the loss compares; the paper predicts eps."""
    min_snr_gamma: float | None = None
    """Min-SNR-gamma loss weight (Hang et al. 2023); the paper has none."""
    max_aug_level: float = 1.0
    """Training draws aug_level from U(0, max); the paper gives no distribution."""

    def __post_init__(self) -> None:
        require_choice(self, schedule=Schedule, prediction=Prediction)
        require_fraction(self, "max_aug_level")
        if self.min_snr_gamma is not None:
            require_positive(self, "min_snr_gamma")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(_Checked):
    """Captioned pictures: where from and how they are fed."""

    source: str = "captioned_emoji/core_64"
    """A tfds name with image and text features, or `folder:DIR` of pictures beside `.txt`
    captions."""
    data_dir: str = ""
    """Where tfds keeps prepared data; empty means tfds's own default."""
    split: str = "train"
    crop: int | None = None
    """Side of the random square crops of the target; None trains on whole pictures."""
    num_workers: int = 0
    """Worker processes that decode; 0 decodes in threads of the main process."""

    def __post_init__(self) -> None:
        require(
            self.num_workers >= 0,
            f"DataConfig.num_workers is {self.num_workers}; it must not be negative.",
        )
        if self.crop is not None:
            require_positive(self, "crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(_Checked):
    """Optimizer, warm-up and EMA. The defaults are the paper's base stage."""

    name: OptimizerName = "adafactor"
    learning_rate: float = 1e-4
    warmup_steps: int = 10_000
    decay_steps: int | None = None
    """Cosine decay to zero over this many steps after the warm-up; the paper has none."""
    clip_global_norm: float | None = 1.0
    """The paper does not state it."""
    ema_decay: float = 0.9999
    """The paper does not state it; 0.9999 is later Google practice."""

    def __post_init__(self) -> None:
        require_choice(self, name=OptimizerName)
        require_positive(self, "learning_rate")
        require_fraction(self, "ema_decay")
        require(
            self.warmup_steps >= 0,
            f"OptimizerConfig.warmup_steps is {self.warmup_steps}; it must not be negative.",
        )
        if self.decay_steps is not None:
            require_positive(self, "decay_steps")
        if self.clip_global_norm is not None:
            require_positive(self, "clip_global_norm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(_Checked):
    """How long, how much at once, and how often to look."""

    batch_size: int = 2048
    """Pictures of one optimizer step over all devices."""
    accumulation_steps: int = 1
    """The batch is taken in this many parts, one after another."""
    num_steps: int = 2_500_000
    caption_dropout: float = 0.1
    """Share of captions whose embeddings are zeroed (paper, section 4.1)."""
    seed: int = 0
    log_every: int = 100
    checkpoint_every: int = 5_000
    keep_checkpoints: int = 3
    sample_every: int = 5_000
    """A grid of pictures every so many steps; 0 for none."""
    sample_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_positive(
            self, "batch_size", "accumulation_steps", "num_steps", "log_every",
            "checkpoint_every", "keep_checkpoints",
        )  # fmt: skip
        require_fraction(self, "caption_dropout")
        require(
            self.sample_every >= 0,
            f"TrainingConfig.sample_every is {self.sample_every}; it must not be negative.",
        )
        require(
            self.batch_size % self.accumulation_steps == 0,
            f"TrainingConfig.batch_size is {self.batch_size}; it must be divisible by "
            f"accumulation_steps, {self.accumulation_steps}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig(_Checked):
    """How a stage samples unless flags say otherwise.

    The paper states neither the number of steps nor its DrawBench guidance weights.
    """

    sampler: SamplerName = "ancestral"
    num_steps: int = 256
    guidance_scale: float = 7.0
    """w of eps = w eps_c + (1 - w) eps_u; 1 is off."""
    thresholding: Thresholding = "dynamic"
    percentile: float = 99.5
    """Of |x0| in dynamic thresholding."""
    gamma: float = 0.3
    """Interpolates the ancestral sampler's log-variance between its bounds."""
    eta: float = 0.0
    """DDIM's stochasticity: 0 is deterministic, 1 is ancestral."""
    aug_level: float = 0.2
    """Of the low-resolution picture, super-resolution stages only."""

    def __post_init__(self) -> None:
        require_choice(self, sampler=SamplerName, thresholding=Thresholding)
        require_positive(self, "num_steps")
        require_fraction(self, "gamma", "eta", "aug_level")
        require(
            math.isfinite(self.guidance_scale),
            f"SamplingConfig.guidance_scale is {self.guidance_scale}; it must be finite.",
        )
        require(
            0 < self.percentile <= 100,
            f"SamplingConfig.percentile is {self.percentile}; it must lie in (0, 100].",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig(_Checked):
    """Devices as (data, fsdp, spatial); `data` is what the other two leave."""

    fsdp: int = 0
    """Devices that share the state, inside one slice; 0 takes all of a slice."""
    spatial: int = 1
    """Devices that share the height of one picture: for sampling at full resolution."""

    def __post_init__(self) -> None:
        require(self.fsdp >= 0, f"MeshConfig.fsdp is {self.fsdp}; it must not be negative.")
        require_positive(self, "spatial")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig(_Checked):
    """One stage: `low_resolution` is None for the base, else the side of its input picture."""

    name: str
    resolution: int
    low_resolution: int | None = None
    unet: Annotated[UNetConfig | EfficientUNetConfig, pydantic.Discriminator("kind")]
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        require_positive(self, "resolution")
        divisor = self.unet.size_divisor
        for size, what in ((self.resolution, "resolution"), (self.data.crop, "data.crop")):
            require(
                size is None or size % divisor == 0,
                f"{what} is {size}; the U-Net of {self.name!r} needs a multiple of {divisor}.",
            )
        crop = self.data.crop or self.resolution
        require(crop <= self.resolution, f"data.crop is {crop}; the most is {self.resolution}.")
        if self.low_resolution is not None:
            require(
                self.low_resolution > 0 and self.resolution % self.low_resolution == 0,
                f"low_resolution is {self.low_resolution}; it must divide {self.resolution}.",
            )
            require(
                crop % self.upscale == 0,
                f"data.crop is {crop}; it must be a multiple of the up-scaling, {self.upscale}.",
            )

    @property
    def upscale(self) -> int:
        """Factor between the low-resolution input and the output."""
        return self.resolution // self.low_resolution if self.low_resolution else 1
