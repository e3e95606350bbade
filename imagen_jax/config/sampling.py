"""How a stage samples, as a config that checks itself."""

import dataclasses
import itertools

from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import Renoising, SamplerName, Spacing, Thresholding
from imagen_jax.config.rules import (
    require,
    require_at_most,
    require_choice,
    require_fraction,
    require_positive,
)

MOST_STEPS = 10**6
"""Of one picture's sampling."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig(Checked):
    """How a stage samples unless flags say otherwise.

    The paper states neither the number of steps nor its DrawBench guidance weights.
    """

    sampler: SamplerName = "ancestral"
    num_steps: int = 256
    spacing: Spacing = "even"
    """Of the steps on a discrete chain (see diffusion/chain.py); `even` is all that others have."""
    timesteps: tuple[int, ...] = ()
    """Steps of a chain of 1000, `num_steps` of them, descending, or where time is continuous the
    times (step + 1) / 1000; empty follows `spacing`."""
    guidance_scale: float = 7.0
    """w of eps = w eps_c + (1 - w) eps_u; 1 is off."""
    picture_guidance_scale: float = 1.0
    """The same of `conditions.pictures`: eps += (w - 1) (eps_p - eps_0), both without text and the
    latter without pictures; 1 is off. The stage must have learned to do without pictures
    (`conditions.picture_dropout`), others ignore it."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guidance is off at times outside of it, 1 being noise (Kynkaanniemi et al. 2024); the paper
    guides always."""
    guidance_oscillates_from: int | None = None
    """Step from which guidance is off in every other step, as in Imagen Video; None for never."""
    guidance_parallel: float = 1.0
    """Share of the part of guidance along the estimate with text (APG, Sadat et al. 2024, which
    takes 0); the paper's guidance has all of it."""
    guidance_max_norm: float | None = None
    """The most that the two estimates of a picture may be apart in guidance (APG); the paper has
    no limit."""
    guidance_momentum: float = 0.0
    """How much of the guidance of the step before is added to a step's (APG, which takes -0.5 or
    so: away from where it led); the paper's has no memory."""
    renoising: Renoising = "guided"
    """`unguided` is CFG++ (Chung et al. 2024), with weights from 0 to 1 (the most) and the sampler
    ddim."""
    thresholding: Thresholding = "dynamic"
    percentile: float = 99.5
    """Of |x0| in dynamic thresholding."""
    max_threshold: float | None = None
    """The most that dynamic thresholding divides by; the paper has no limit."""
    gamma: float = 0.3
    """Interpolates the ancestral sampler's log-variance between its bounds."""
    eta: float = 0.0
    """DDIM's stochasticity: 0 is deterministic, 1 is ancestral."""
    aug_level: float = 0.2
    """Of the low-resolution picture, super-resolution stages only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(
            self,
            sampler=SamplerName,
            thresholding=Thresholding,
            spacing=Spacing,
            renoising=Renoising,
        )
        self._check_guidance()
        require_positive(self, "num_steps")
        require_at_most(self, MOST_STEPS, num_steps=self.num_steps)
        self._check_timesteps()
        require(
            self.max_threshold is None or self.max_threshold >= 1,
            f"SamplingConfig.max_threshold is {self.max_threshold}; it must be at least 1.",
        )
        require_fraction(self, "gamma", "eta", "aug_level")
        interval = self.guidance_interval
        require(
            len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1,
            f"SamplingConfig.guidance_interval is {self.guidance_interval}; it must be two times "
            "between 0 and 1, the smaller one first.",
        )
        oscillates_from = self.guidance_oscillates_from
        require(
            oscillates_from is None or oscillates_from >= 0,
            f"SamplingConfig.guidance_oscillates_from is {oscillates_from}; it must not be "
            "negative.",
        )
        require(
            0 < self.percentile <= 100,
            f"SamplingConfig.percentile is {self.percentile}; it must lie in (0, 100].",
        )

    def _check_guidance(self) -> None:
        if self.guidance_max_norm is not None:
            require_positive(self, "guidance_max_norm")
        require(
            -1 < self.guidance_momentum <= 0,
            f"SamplingConfig.guidance_momentum is {self.guidance_momentum}; it must lie in "
            "(-1, 0].",
        )
        require(
            self.renoising == "guided" or self.sampler == "ddim",
            f"SamplingConfig.renoising is {self.renoising!r} and sampler {self.sampler!r}; noise "
            "of the estimate without text is put back by ddim alone.",
        )
        require(
            self.renoising == "guided" or 0 <= self.guidance_scale <= 1,
            f"SamplingConfig.renoising is {self.renoising!r} and guidance_scale "
            f"{self.guidance_scale:g}; with it weights lie between 0 and 1.",
        )

    def _check_timesteps(self) -> None:
        steps = self.timesteps
        require(
            len(steps) in (0, self.num_steps),
            f"SamplingConfig.timesteps has {len(steps)} steps; num_steps is {self.num_steps}.",
        )
        require(
            all(step > later for step, later in itertools.pairwise((1000, *steps, -1))),
            f"SamplingConfig.timesteps is {steps}; they must descend within 999 to 0.",
        )

    @property
    def guides(self) -> bool:
        """Whether an estimate without text is needed beside the one with it."""
        return self.guidance_scale != 1 or self.renoising == "unguided"

    @property
    def guides_some_steps(self) -> bool:
        """Whether steps may be left unguided, which is weight 1."""
        return self.guidance_interval != (0.0, 1.0) or self.guidance_oscillates_from is not None

    @property
    def projects(self) -> bool:
        """Whether guidance is APG's."""
        limits = self.guidance_parallel != 1 or self.guidance_max_norm is not None
        return limits or self.guidance_momentum != 0
