"""The verb `tune`: settings of a stage's sampling, chosen by what is measured of its pictures."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from imagen_jax.cli.given import require_positive_flags
from imagen_jax.cli.outputs import require_other, require_suffix
from imagen_jax.cli.sweep import SweepFlags, check_measuring, judged_by, measured_by
from imagen_jax.config import SamplingConfig
from imagen_jax.config.choices import Dtype
from imagen_jax.errors import UsageError
from imagen_jax.storage.hub import stage_path

if TYPE_CHECKING:
    from imagen_jax.evaluation.tuning import Figures

_SUFFIX = ".safetensors"
_HELD_OUT = "held-out pairs"


@dataclasses.dataclass(frozen=True)
class Tune:
    """Choose how a trained stage samples at so many evaluations of its network a picture, and write
    the stage with that in its header; nothing is trained. Sampler, spacing of a chain's steps,
    guidance interval, thresholding and single times are varied in turn. Without --prompts the
    emoji's judge measures, on prompts of seen pairs, and tells of held-out ones afterwards."""

    stage: Annotated[Positional[str], arg(metavar="STAGE")]
    """A stage that paints from nothing: a training directory or an exported file."""
    out: Annotated[Positional[Path], arg(metavar=f"OUT{_SUFFIX}")]
    """File to write. What is measured is kept beside it, in OUT.tuning, and taken over by the same
    command."""
    budget: int
    """Evaluations of the network a picture: a guided step takes two, and a step of heun twice as
    many."""
    times: int = 16
    """Times of the steps beside those of a spacing that are tried at most; 0 for none."""
    flags: OmitArgPrefixes[SweepFlags] = SweepFlags()
    batch_size: int = 16
    """Pictures that go through the network at once."""
    dtype: Dtype = "bfloat16"
    """Of the stored weights."""

    def run(self) -> None:
        from imagen_jax.evaluation.tuning import tune
        from imagen_jax.stored.stages import load_opened, open_stage
        from imagen_jax.weights.stage_file import save_stage_file

        require_suffix(self.out, _SUFFIX)
        require_other(self.out, self.stage)
        require_positive_flags(self, "budget", "batch_size")
        if self.times < 0:
            raise UsageError(f"--times is {self.times}; it must not be negative.")
        check_measuring(self.flags)
        path = stage_path(self.stage)
        stage = open_stage(path)
        if stage.config.low_resolution is not None:
            raise UsageError(f"{self.stage} enlarges pictures; a stage is tuned that paints alone.")
        figures = self._figures(stage, measured_by(self.flags))
        tried = tune(stage.config, self.budget, figures, self.times)
        loaded = load_opened(stage)
        config = dataclasses.replace(loaded.config, sampling=tried[-1].settings)
        said = (loaded.weights, loaded.tokenizer)
        save_stage_file(self.out, config, loaded.params, self.dtype, *said)
        print(_table(stage.config.sampling, tried))
        if not self.flags.prompts:
            of_held_out = self._figures(stage, judged_by(self.flags, _HELD_OUT), _HELD_OUT)
            for name, one in (("as it was", tried[0]), ("as chosen", tried[-1])):
                fit, distance = of_held_out(one.settings)
                print(f"{_HELD_OUT}, {name}: {fit:.4f}, {distance:.4f}")

    def _figures(
        self, stage: Any, measure: Any, kind: str = ""
    ) -> "Callable[[SamplingConfig], Figures]":
        """Measures settings of the stage; what is made on the way stays beside OUT."""
        from imagen_jax.pipeline.cascade import Cascade
        from imagen_jax.storage.digests import digest

        cascade = Cascade([stage])
        measure.check(cascade)

        def figures(settings: SamplingConfig) -> "Figures":
            values = dataclasses.asdict(settings)
            name = digest({"settings": values, "of": kind})[:16]
            options = {"batch_size": self.batch_size} | {x: [y] for x, y in values.items()}
            found = measure((cascade, options), self.out.with_suffix(".tuning") / name)
            fit, distance = found.values()
            return fit, distance

        return figures


def _table(own: SamplingConfig, tried: list[Any]) -> str:
    """Every trial as one line, with what it changes of the stage's own settings."""
    lines = []
    for one in tried:
        values = dataclasses.asdict(one.settings)
        changed = [f"{x} {y}" for x, y in values.items() if y != getattr(own, x)]
        said = ", ".join(changed) or "as it was"
        lines.append(f"{one.figures[0]:.4f}  {one.figures[1]:.4f}  {said}")
    return "\n".join(lines)
