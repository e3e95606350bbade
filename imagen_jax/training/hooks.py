"""What a run does beside its steps, each where it is due."""

import dataclasses

from imagen_jax.checkpoints.state import TrainState
from imagen_jax.networks import Params
from imagen_jax.training.evaluation import HeldOutLoss
from imagen_jax.training.grids import SampleGrid
from imagen_jax.training.painted import PaintedFigures
from imagen_jax.training.profiling import Profiler
from imagen_jax.training.report import Reporter
from imagen_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Beside the steps; None for what is never due.

    Attributes:
        figures: of pictures that the run paints.
    """

    trainer: Trainer
    reporter: Reporter
    profiler: Profiler
    evaluate: HeldOutLoss | None
    grid: SampleGrid | None
    figures: PaintedFigures | None

    def is_due(self, step: int, every: int) -> bool:
        """What comes every so many steps comes after the last one too."""
        return step % every == 0 or step == self.trainer.config.training.num_steps

    def after(self, step: int, state: TrainState, frozen: Params) -> None:
        """Does what is due after a step, without counting its time as that of steps."""
        training, reporter = self.trainer.config.training, self.reporter
        if self.evaluate is not None and self.is_due(step, training.eval_every):
            with reporter.paused():
                reporter.write(step, self.evaluate(state, frozen))
        if self.grid is not None and self.is_due(step, training.sample_every):
            with reporter.paused():
                reporter.show(step, "samples", *self.grid(self._painter(state, frozen)))
        if self.figures is not None and self.is_due(step, self.figures.every):
            with reporter.paused():
                reporter.write(step, self.figures(self._painter(state, frozen)))

    def _painter(self, state: TrainState, frozen: Params) -> Params:
        """What pictures are painted with: the EMA of the weights, and what does not change."""
        return self.trainer.whole(state.ema, frozen)
