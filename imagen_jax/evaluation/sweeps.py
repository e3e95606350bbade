"""Sweeps: a cascade measured at one point of its settings after another, and the curves of that.

What a point has made stays in a directory of its own, so that a sweep that was stopped goes on, and
a later one with more points takes over what there is.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import emoji, measures
from imagen_jax.evaluation.axes import Axis, Point, directory_name, points_of
from imagen_jax.evaluation.cases import Kind, all_cases, digest
from imagen_jax.evaluation.curves import Measured, draw
from imagen_jax.evaluation.feature_files import FeatureFiles
from imagen_jax.evaluation.judge import Judge
from imagen_jax.evaluation.painting import paint, painters
from imagen_jax.evaluation.pictures import open_pictures
from imagen_jax.evaluation.prompt_sets import Prompts
from imagen_jax.evaluation.run import Work, Yardstick, evaluate, open_networks
from imagen_jax.evaluation.tables import RESULTS, TABLE, table
from imagen_jax.parallel import distributed
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.sheets import save_png
from imagen_jax.pipeline.steps import sampled_stages
from imagen_jax.storage.digests import read_sealed, sealed
from imagen_jax.storage.files import write_text

CURVES = "sweep.png"
POINTS = "points"

Painter = tuple[Cascade, dict[str, Any]]
"""A cascade, and what it is called with at a point."""


@runtime_checkable
class Measure(Protocol):
    """Measures a point."""

    def check(self, cascade: Cascade) -> None:
        """Raises a UsageError where it cannot measure what the cascade paints."""
        ...

    def __call__(self, painter: Painter, directory: Path) -> measures.Figures:
        """Two figures by their names, how well pictures fit and how far they are, on the first of
        several processes; what is made on the way stays in the directory."""
        ...


def sweep(
    axes: Sequence[Axis], painter_at: Callable[[Point], Painter], measure: Measure, out: Path
) -> str:
    """Measures every point; writes results.json, table.md and sweep.png after each.

    Of several processes all must call it, and the first one writes.

    Returns:
        The table, in Markdown.

    Raises:
        UsageError: as painting and measuring; before anything is painted where a point has no such
            stage or setting.
    """
    points = points_of(axes)
    for point in points:  # A slip in a late one would cost all before it.
        cascade, options = painter_at(point)
        settings = {name: x for name, x in options.items() if name != "batch_size"}
        sampled_stages([stage.stored for stage in cascade.stages], settings)
        measure.check(cascade)
    measured: list[Measured] = []
    for point in points:
        directory = out / POINTS / directory_name(point)
        measured.append(Measured(point, measure(painter_at(point), directory)))
        distributed.leader_does(lambda: _write(axes, measured, out))
    return _table(axes, measured)


def _table(axes: Sequence[Axis], measured: Sequence[Measured]) -> str:
    rows = [
        [*(str(one.point[axis.name]) for axis in axes), *(f"{x:.4f}" for x in one.figures.values())]
        for one in measured
    ]
    return table([[*(axis.name for axis in axes), *measured[0].figures], *rows])


def _write(axes: Sequence[Axis], measured: Sequence[Measured], out: Path) -> None:
    points = [
        {"settings": one.point, "kept": directory_name(one.point), **one.figures}
        for one in measured
    ]
    results = {"points": points, "versions": package_versions()}
    save_png(draw(axes, measured), out / CURVES)
    write_text(out / TABLE, _table(axes, measured) + "\n")
    write_text(out / RESULTS, json.dumps(results, indent=1))


class JudgedEmoji:
    """The share of concepts that the judge names first, and its kernel distance from true pictures,
    of prompts of one kind; settings are never chosen on what is held out."""

    _NAMES = (
        ("concept", "judge: concept named first"),
        ("judge_kernel_distance", "judge kernel distance to true pictures"),
    )

    def __init__(self, judge: Judge, limit: int, seeds: int, kind: Kind = "seen pairs") -> None:
        """`limit` prompts, with each of `seeds` seeds from 0 on."""
        self._judge, self._seeds, self._kind = judge, seeds, kind
        self._cases = [case for case in all_cases() if case.kind == kind][:limit]
        self._prompts = [case.prompt for case in self._cases]

    def check(self, cascade: Cascade) -> None:
        emoji.check_sides([stage.stored for stage in cascade.stages])

    def __call__(self, painter: Painter, directory: Path) -> measures.Figures:
        cascade, options = painter
        plan = self._plan(cascade, options)
        figures = _kept(directory / RESULTS, plan)
        if figures is None:
            painted = [
                cascade(self._prompts, seed=seed, **options).stages for seed in range(self._seeds)
            ]
            last, first = [stages[-1] for stages in painted], painted[0]
            enlarged = (self._cases, first) if len(first) > 1 else ()
            measured = emoji.measure(self._judge, None, self._cases, last, *enlarged)
            figures = measured.columns[self._kind]
            results = sealed({"plan": plan, "figures": figures, "enlarged": measured.enlarged})

            def write() -> None:
                emoji.save_sheets(directory, self._cases, last[0], measured.verdicts[0])
                write_text(directory / RESULTS, json.dumps(results, indent=1))

            distributed.leader_does(write)
        return {f"{name} ({self._kind})": figures[key] for key, name in self._NAMES}

    def _plan(self, cascade: Cascade, options: dict[str, Any]) -> dict[str, Any]:
        """All that the figures depend on, as it comes back from JSON."""
        plan = {
            "cases": digest(self._cases),
            "judge": self._judge.digest(),
            "seeds": self._seeds,
            "painters": painters(cascade),
            "options": {name: x for name, x in options.items() if name != "batch_size"},
        }
        return json.loads(json.dumps(plan))


def _kept(path: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The figures in a file of the same plan; None where there is none yet.

    Raises:
        UsageError: the file is of another plan.
    """
    if not path.is_file():
        return None
    before = read_sealed(path)
    if before.get("plan") != plan:
        raise UsageError(f"{path} is of another command or other weights; name a new directory.")
    return before["figures"]


class PaintedPrompts:
    """The CLIP score of pictures, and their distance from a reference."""

    def __init__(
        self,
        prompts: Prompts,
        clip: Path,
        reference: FeatureFiles,
        weights: Path,
        measure: str,
        **painting: Any,
    ) -> None:
        """Checks what can be checked before anything is painted.

        Args:
            clip: directory of the CLIP that scores.
            weights: of the reference's network.
            measure: of its measures.
            painting: `num_images` and `seed`, as `paint` takes them.

        Raises:
            UsageError: too few prompts for the measure, it is none of the reference's, or weights
                cannot be read or are others than the reference's.
        """
        if measure not in measures.DISTANCES:
            raise UsageError(
                f"--measure is {measure!r}; it must be a distance: {', '.join(measures.DISTANCES)}."
            )
        measures.check(reference, (measure,), len(prompts) * painting["num_images"])
        self._prompts, self._painting = prompts, painting
        self._by = (
            Yardstick(reference=None, weights=clip, clip_score=True),
            Yardstick(reference=reference, weights=weights, names=(measure,)),
        )
        open_networks(self._by)

    def check(self, cascade: Cascade) -> None:
        """Pictures of any size can be measured."""

    def __call__(self, painter: Painter, directory: Path) -> measures.Figures:
        cascade, options = painter
        paint(cascade, self._prompts, directory / "pictures", **self._painting, **options)
        pictures = open_pictures(directory / "pictures")
        work = Work(pictures=pictures, yardsticks=self._by)
        figures = evaluate(work, directory / "measured", batch_size=options["batch_size"])
        # The score is one figure; the first of a measure is its own, what follows says how sure
        # it is.
        return dict(itertools.islice(figures.items(), 2))
