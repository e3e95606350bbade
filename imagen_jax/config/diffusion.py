"""The noise that a stage is trained on, as a config that checks itself."""

import dataclasses

from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import Augmented, Prediction, Schedule
from imagen_jax.config.rules import require, require_choice, require_fraction, require_positive
from imagen_jax.config.sampling import SamplingConfig

_LARGEST_LOG_SNR = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig(Checked):
    """Forward process and loss. The defaults are the paper's."""

    schedule: Schedule = "cosine"
    """`cosine_chain` is DeepFloyd IF's discrete chain of 1000 steps. `cosine_shifted_256` and the
    like have the noise that pictures of that side need to be as noisy as ones of 64 (Hoogeboom et
    al. 2023), and `linear_to_zero` ends in noise alone (Lin et al. 2023)."""
    prediction: Prediction = "eps"
    """What the U-Net predicts and the loss compares; the paper predicts eps."""
    min_snr_gamma: float | None = None
    """Min-SNR-gamma loss weight (Hang et al. 2023); the paper has none."""
    sigmoid_bias: float | None = None
    """b of the sigmoid loss weight (Hoogeboom et al. 2024), sigmoid(b - log-SNR) on the error of
    eps for noise levels drawn evenly in log-SNR; the paper has none."""
    max_aug_level: float = 1.0
    """Training draws aug_level from U(0, max); the paper's text gives no distribution."""
    augmented: Augmented = "small"
    """What the augmentation's noise is added to: the low-resolution picture as it is, or after it
    was enlarged to the stage's own size (bilinear, corner to corner), as in DeepFloyd IF."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, schedule=Schedule, prediction=Prediction, augmented=Augmented)
        require_fraction(self, "max_aug_level")
        if self.min_snr_gamma is not None:
            require_positive(self, "min_snr_gamma")
        require(
            self.min_snr_gamma is None or self.sigmoid_bias is None,
            f"DiffusionConfig.min_snr_gamma is {self.min_snr_gamma} and sigmoid_bias "
            f"{self.sigmoid_bias}; a loss has one of these weights.",
        )
        require(
            self.sigmoid_bias is None or abs(self.sigmoid_bias) <= _LARGEST_LOG_SNR,
            f"DiffusionConfig.sigmoid_bias is {self.sigmoid_bias}; it is a log-SNR, between "
            f"-{_LARGEST_LOG_SNR} and {_LARGEST_LOG_SNR}.",
        )
        require(
            self.sigmoid_bias is None or self.schedule != "cosine_chain",
            f"DiffusionConfig.sigmoid_bias is {self.sigmoid_bias} and schedule 'cosine_chain'; the "
            "weight needs a schedule in continuous time.",
        )
        require(
            self.schedule != "linear_to_zero" or self.prediction != "eps",
            f"DiffusionConfig.schedule is {self.schedule!r} and prediction is 'eps'; where there "
            "is nothing but noise it gives no picture: predict v or x0.",
        )

    def check_steps(self, settings: SamplingConfig) -> None:
        """Raises a UsageError for steps of sampling that this schedule does not have."""
        require(
            settings.spacing == "even" or self.schedule == "cosine_chain",
            f"SamplingConfig.spacing is {settings.spacing!r} and DiffusionConfig.schedule "
            f"{self.schedule!r}; that spacing belongs to 'cosine_chain'.",
        )

    def check_few_steps(self, steps: int) -> None:
        """Raises a UsageError unless a student can learn to paint in `steps` of them."""
        require(
            self.prediction != "eps",
            f"distillation.steps is {steps} and diffusion.prediction is 'eps'; the first of few "
            "steps sees nothing but noise, from which eps gives no picture: predict v or x0.",
        )
        for name in ("min_snr_gamma", "sigmoid_bias"):
            require(
                getattr(self, name) is None,
                f"distillation.steps is {steps} and diffusion.{name} is {getattr(self, name)}; all "
                "steps of a student count alike.",
            )
