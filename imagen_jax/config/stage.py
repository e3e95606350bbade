"""A stage's config: optimizer, training, devices, and all parts together."""

import dataclasses
import math
from typing import Annotated

import pydantic

from imagen_jax.config.adapter import AdapterConfig
from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import Dtype, OptimizerName
from imagen_jax.config.conditions import ConditionsConfig, NetworkInputs
from imagen_jax.config.data import LARGEST_SIDE, DataConfig, Size
from imagen_jax.config.diffusion import DiffusionConfig
from imagen_jax.config.distillation import DistillationConfig
from imagen_jax.config.network import EfficientUNetConfig, UNetConfig
from imagen_jax.config.rules import (
    require,
    require_at_most,
    require_choice,
    require_fraction,
    require_not_negative,
    require_positive,
)
from imagen_jax.config.sampling import SamplingConfig
from imagen_jax.config.text import TextEncoderConfig

_MOST_PICTURES = 2**20
"""Of a batch."""
_MOST_STEPS = 2**31 - 1
"""They are counted in 32 bits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Checked):
    """Optimizer, warm-up and EMA. The defaults are the paper's base stage."""

    name: OptimizerName = "adafactor"
    learning_rate: float = 1e-4
    warmup_steps: int = 10_000
    decay_steps: int | None = None
    """Cosine decay to zero over this many steps after the warm-up. The paper's text has none; its
    listings (appendix F) have one over 2,500,000 steps, to an end value that is a misprint."""
    moment_dtype: Dtype = "float32"
    """Of Adam's first moment; Adafactor has none."""
    clip_global_norm: float | None = 1.0
    """The paper does not state it."""
    ema_decay: float = 0.9999
    """The paper does not state it; 0.9999 is later Google practice."""
    power_ema: tuple[float, ...] = ()
    """Lengths of averages that are kept beside the EMA, as shares of the run: deviations of when
    their weights were (Karras et al. 2024 take 0.05 and 0.1). Of their snapshots `export
    --ema-length` makes any other. The paper has none."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that are not trained, such as `text_encoder.*` or
    `unet.down.0.*.kernel`; `*` stands for anything. The paper has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, name=OptimizerName, moment_dtype=Dtype)
        require_positive(self, "learning_rate")
        require_fraction(self, "ema_decay")
        require(
            len(set(self.power_ema)) == len(self.power_ema)
            and all(0.01 <= length <= 0.25 for length in self.power_ema),
            f"OptimizerConfig.power_ema is {self.power_ema}; lengths must differ and lie between "
            "0.01 and 0.25.",
        )
        require_not_negative(self, "warmup_steps")
        if self.decay_steps is not None:
            require_positive(self, "decay_steps")
        if self.clip_global_norm is not None:
            require_positive(self, "clip_global_norm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
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
    snapshot_every: int = 50_000
    """Steps between two snapshots of `optimizer.power_ema`; all of them stay."""
    sample_every: int = 5_000
    """A grid of pictures every so many steps; 0 for none."""
    sample_prompts: tuple[str, ...] = ()
    eval_every: int = 0
    """The loss on held-out pictures every so many steps; 0 for none."""
    eval_batches: int = 8
    """Of `batch_size` / `accumulation_steps` held-out pictures each."""
    max_skipped_in_a_row: int = 10
    """The run stops when so many updates in a row were skipped because they were not finite."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            self,
            "batch_size",
            "accumulation_steps",
            "num_steps",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "snapshot_every",
            "eval_batches",
            "max_skipped_in_a_row",
        )
        require_at_most(self, _MOST_PICTURES, batch_size=self.batch_size)
        require_at_most(self, _MOST_STEPS, num_steps=self.num_steps)
        require_fraction(self, "caption_dropout")
        require(
            0 <= self.seed < 2**32,
            f"TrainingConfig.seed is {self.seed}; it must lie between 0 and {2**32 - 1}.",
        )
        require_not_negative(self, "sample_every", "eval_every")
        require(
            self.batch_size % self.accumulation_steps == 0,
            f"TrainingConfig.batch_size is {self.batch_size}; it must be divisible by "
            f"accumulation_steps, {self.accumulation_steps}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig(Checked):
    """Devices as (data, fsdp, spatial); `data` is what the other two leave."""

    fsdp: int = 0
    """Devices that share the state, inside one slice; 0 takes all of a slice."""
    spatial: int = 1
    """Devices that share the height of one picture: for sampling at full resolution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "fsdp")
        require_positive(self, "spatial")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig(Checked):
    """One stage: `low_resolution` is None for the base, else the side of its input picture."""

    name: str
    resolution: int
    low_resolution: int | None = None
    unet: Annotated[UNetConfig | EfficientUNetConfig, pydantic.Discriminator("kind")]
    conditions: ConditionsConfig = ConditionsConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    mesh: MeshConfig = MeshConfig()
    adapter: AdapterConfig = AdapterConfig()
    distillation: DistillationConfig = DistillationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "resolution")
        require_at_most(self, LARGEST_SIDE, resolution=self.resolution)
        divisor = self.unet.size_divisor
        for size, what in ((self.resolution, "resolution"), (self.data.crop, "data.crop")):
            require(
                size is None or size % divisor == 0,
                f"{what} is {size}; the U-Net of {self.name!r} needs a multiple of {divisor}.",
            )
        if isinstance(self.unet, UNetConfig):
            self.unet.check_attention(self.resolution)
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
        else:
            faults = {"blur": self.data.low_res_blur, "blotches": self.data.low_res_blotches}
            for name, value in faults.items():
                require(
                    not value,
                    f"data.low_res_{name} is {value} and low_resolution is None; a base stage has "
                    "no low-resolution pictures.",
                )
        self._check_sizes(math.lcm(divisor, self.upscale))
        if self.training.eval_every:
            self.data.held_out()
        require(
            not (self.data.embeddings and self.text_encoder.train),
            f"data.embeddings is {self.data.embeddings!r} and text_encoder.train is on; the "
            "embeddings of an encoder that is trained change.",
        )
        self._check_text()
        self._check_adapter()
        self._check_distillation()
        self.as_learned(self.sampling)

    def as_learned(self, settings: SamplingConfig) -> SamplingConfig:
        """The settings, of a student on a chain at times that it knows.

        Raises:
            UsageError: a student has not learned such steps or such guidance.
        """
        self.diffusion.check_steps(settings)
        self._check_guidance(settings)
        learned = self.distillation.steps
        if learned is None:
            return settings
        require(
            learned % settings.num_steps == 0,
            f"SamplingConfig.num_steps is {settings.num_steps}; {self.name!r} was distilled to "
            f"{learned} steps, and takes these or a whole part of them.",
        )
        every = self.sampling.timesteps[:: learned // settings.num_steps]
        require(
            settings.timesteps in ((), every),
            f"SamplingConfig.timesteps is {settings.timesteps}; {self.name!r} was distilled to "
            f"{every}.",
        )
        return dataclasses.replace(settings, timesteps=every)

    def _check_guidance(self, settings: SamplingConfig) -> None:
        if self.conditions.guidance is None:
            return
        (low, high), scale = self.conditions.guidance, settings.guidance_scale
        require(
            low <= scale <= high,
            f"SamplingConfig.guidance_scale is {scale:g}; {self.name!r} takes it as an input and "
            f"learned {low:g} to {high:g}.",
        )
        require(
            low <= 1 <= high or not settings.guides_some_steps,
            "SamplingConfig has guidance_interval or guidance_oscillates_from, and a step without "
            f"guidance has weight 1; {self.name!r} takes it as an input and learned {low:g} to "
            f"{high:g}.",
        )
        require(
            not settings.projects and settings.renoising == "guided",
            "SamplingConfig has guidance_parallel, guidance_max_norm, guidance_momentum or "
            f"renoising; {self.name!r} takes a guidance weight and nothing else.",
        )

    @property
    def adapts_text_encoder(self) -> bool:
        """Whether its adapter may change the text encoder, where it has one."""
        return self.conditions.text and self.adapter.adapts("text_encoder")

    def _check_adapter(self) -> None:
        """Only the adapter is trained, and an encoder that it changes runs in each step."""
        encoder, adapter = self.text_encoder, self.adapter
        require(
            not adapter.rank or bool(adapter.base),
            f"adapter.rank is {adapter.rank} and adapter.base is empty; name the stage that is "
            "adapted.",
        )
        require(
            not (adapter.rank and self.optimizer.power_ema),
            f"adapter.rank is {adapter.rank} and optimizer.power_ema {self.optimizer.power_ema}; "
            "such averages are kept of whole stages.",
        )
        require(
            not (adapter.rank and encoder.train),
            f"adapter.rank is {adapter.rank} and text_encoder.train is on; to adapt the encoder, "
            "choose kernels of it with adapter.targets.",
        )
        fixed = {"data.embeddings": self.data.embeddings, "text_encoder.null": encoder.null}
        for name, value in fixed.items():
            require(
                not self.adapts_text_encoder or value in ("", "zeros"),
                f"{name} is {value!r} and adapter.targets is {adapter.targets}; the embeddings of "
                "an encoder that is adapted change.",
            )

    def _check_distillation(self) -> None:
        """A student is its own U-Net, and of few steps one that begins with noise."""
        student = self.distillation
        if student.steps is not None:
            self.diffusion.check_few_steps(student.steps)
        fixed = {
            "unet.variant.predicts_variance": self.unet.variant.predicts_variance,
            "adapter.rank": self.adapter.rank,
            "text_encoder.train": self.text_encoder.train,
        }
        for name, value in fixed.items():
            require(
                not (student.teacher and value),
                f"{name} is {value} and distillation.teacher is {student.teacher!r}; a student's "
                "steps are deterministic, and all that it learns is its U-Net.",
            )

    def _check_text(self) -> None:
        """A stage without text names no encoder: it would be neither trained nor read."""
        asked = {
            "text_encoder.train": self.text_encoder.train,
            "text_encoder.source": self.text_encoder.source,
            "data.embeddings": self.data.embeddings,
        }
        for name, value in asked.items():
            require(
                self.conditions.text or not value,
                f"{name} is {value!r} and conditions.text is off; a stage without text has no "
                "text encoder.",
            )

    @property
    def inputs(self) -> NetworkInputs:
        """What the U-Net is told beside z."""
        return self.conditions.inputs(
            self.text_encoder.width, enlarges=self.low_resolution is not None
        )

    def _check_sizes(self, divisor: int) -> None:
        for height, width in self.data.sizes:
            require(
                height % divisor == width % divisor == 0,
                f"data.sizes has {height}x{width}; the U-Net of {self.name!r} needs multiples of "
                f"{divisor}.",
            )

    @property
    def training_sizes(self) -> tuple[Size, ...]:
        """(height, width) of the pictures of a training step, all of a batch of the same."""
        side = self.data.crop or self.resolution
        return self.data.sizes or ((side, side),)

    @property
    def runs_frozen_encoder(self) -> bool:
        """Whether a training step runs a text encoder that it does not train."""
        return self.conditions.text and not (self.text_encoder.train or self.data.embeddings)

    @property
    def upscale(self) -> int:
        """Factor between the low-resolution input and the output."""
        return self.resolution // self.low_resolution if self.low_resolution else 1
