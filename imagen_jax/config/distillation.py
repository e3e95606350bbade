"""What a stage learned from another one, as a config that checks itself."""

import dataclasses

from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import DistillationMethod
from imagen_jax.config.rules import require, require_at_most, require_choice, require_positive
from imagen_jax.config.sampling import MOST_STEPS


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig(Checked):
    """A student's teacher and steps; the paper's stages have none."""

    teacher: str = ""
    """The stage that it learns from: a training directory or an exported file."""
    steps: int | None = None
    """Sampling steps that the student takes; None learns what the teacher predicts at all times,
    guided where `conditions.guidance` says so."""
    method: DistillationMethod = "progressive"
    """`progressive` learns two steps of a teacher in one (Salimans & Ho 2022); `consistency` learns
    to say the same along each of its steps (Heek et al. 2024), from a teacher of any steps."""
    consistency_steps: int = 128
    """Steps of the teacher in `consistency`, a multiple of the student's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, method=DistillationMethod)
        require_positive(self, "consistency_steps")
        require_at_most(self, MOST_STEPS, consistency_steps=self.consistency_steps)
        if self.steps is None:
            return
        require_positive(self, "steps")
        require_at_most(self, MOST_STEPS, steps=self.steps)
        require(
            self.method != "consistency"
            or (self.each > 1 and self.consistency_steps % self.steps == 0),
            f"DistillationConfig.consistency_steps is {self.consistency_steps}; it must be a "
            f"multiple of the student's steps, {self.steps}, and more than these.",
        )

    @property
    def each(self) -> int:
        """Steps of the teacher in one of the student's."""
        if self.method == "progressive" or self.steps is None:
            return 2
        return self.consistency_steps // self.steps
