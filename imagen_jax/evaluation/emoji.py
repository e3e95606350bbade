"""Measures a cascade of emoji: is what it paints what the prompts say, how sharp?

The prompts are those of `cases`. The base paints each of them once a seed, as sample.py would;
some are painted by all stages too. Beside them stand true pictures of the same prompts: what the
judge and the small CLIP say of these is the most that can be reached.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import figures, side_by_side
from imagen_jax.evaluation.cases import KINDS, Case, all_cases, digest, first_of_each
from imagen_jax.evaluation.figures import Figures, Pictures, Seen, Verdict
from imagen_jax.evaluation.judge import SIDE, SMALLEST, Judge, load_judge
from imagen_jax.evaluation.match import Matcher
from imagen_jax.evaluation.tables import RESULTS, TABLE
from imagen_jax.parallel import distributed
from imagen_jax.pipeline import pictures as painted
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.sheets import grid, save_png
from imagen_jax.storage.files import write_text
from imagen_jax.stored.stages import StoredStage

TRUE = "true pictures"
_SIDE_BY_SIDE = "side by side, held-out pairs"
_COLUMNS, _CELL = 10, 128
_LARGE_COLUMNS, _LARGE_CELL = 4, 320
"""Of the sheets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """How much is painted.

    Attributes:
        limit: the first so many prompts of each kind.
        seeds: so many, from 0 on.
        enlarged: the first so many prompts of each kind are painted by all stages, with seed 0.
    """

    limit: int
    seeds: int
    enlarged: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the judge says.

    Attributes:
        columns: figures of each kind of prompt, then of the true pictures of all kinds.
        verdicts: for each seed those on each case.
        enlarged: figures of what all stages painted; None where there is a base alone.
    """

    columns: dict[str, Figures]
    verdicts: list[list[Verdict]]
    enlarged: Figures | None = None

    @property
    def markdown(self) -> str:
        """The tables."""
        return figures.markdown(self.columns, self.enlarged)


def measure_emoji(stages: Sequence[StoredStage], out: Path, trial: Trial, **options: Any) -> str:
    """Paints, measures, and writes results.json, table.md and sheets to `out`.

    Of several processes all must call it, and the first one writes.

    Args:
        stages: from the base up, as `check_sides` takes them.
        options: as `Cascade` takes them, settings as lists of one a stage.

    Returns:
        The tables, in Markdown.

    Raises:
        UsageError: as `Cascade`.
    """
    judge, matcher, everything = load_judge(), Matcher(), all_cases()
    cases, few = (first_of_each(everything, n) for n in (trial.limit, trial.enlarged))
    of_base = {name: x[:1] if isinstance(x, list) else x for name, x in options.items()}
    by_seed = _paint(stages[:1], [case.prompt for case in cases], range(trial.seeds), of_base)
    asked = [case.prompt for case in few]
    large = _paint(stages, asked, range(1), options)[0] if len(stages) > 1 else None
    small = [pictures.stages[0] for pictures in by_seed]
    measured = measure(judge, matcher, cases, small, few, large.stages if large else ())
    two, table = _side_by_side(judge, stages[:1], trial, of_base), measured.markdown
    if two is not None:
        table += f"\n\n{figures.two_columns(_SIDE_BY_SIDE, two.figures)}"
    results = {
        "figures": measured.columns,
        "enlarged": measured.enlarged,
        _SIDE_BY_SIDE: two and two.figures,
        "trial": dataclasses.asdict(trial),
        "cases_sha256": digest(everything),
        "judge_sha256": judge.digest(),
        "clip_sha256": matcher.digest,
        "stages": (large or by_seed[0]).account,
        "versions": package_versions(),
        "pictures": _listed(cases, measured.verdicts),
    }

    def write() -> None:
        save_sheets(out, cases, by_seed[0].stages[0], measured.verdicts[0])
        if large is not None:
            _save_sheet(out / "enlarged.png", large.stages[-1], asked, large=True)
        if two is not None:
            _save_sheet(out / "side-by-side.png", two.pictures, two.prompts)
        write_text(out / TABLE, table + "\n")
        write_text(out / RESULTS, json.dumps(results, indent=1))

    distributed.leader_does(write)
    return table


def check_sides(stages: Sequence[StoredStage]) -> None:
    """Raises a UsageError unless the judge can read what each stage paints."""
    for stage in stages:
        side = stage.config.resolution
        if side % SIDE and side != SMALLEST:
            raise UsageError(
                f"{stage.origin} paints {side} pixels; the judge of the emoji reads {SMALLEST}, or "
                f"{SIDE} times a whole number."
            )


def _paint(
    stages: Sequence[StoredStage], prompts: Sequence[str], seeds: range, options: dict[str, Any]
) -> list[painted.Pictures]:
    """One picture of each prompt a seed."""
    cascade = Cascade(stages)
    return [cascade(prompts, seed=seed, **options) for seed in seeds]


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Figures of pairs, their prompts, and the pictures of seed 0."""

    figures: Figures
    prompts: list[str]
    pictures: Pictures


def _side_by_side(
    judge: Judge, base: Sequence[StoredStage], trial: Trial, options: dict[str, Any]
) -> _Pairs | None:
    """None of a base that was shown no pairs."""
    if not side_by_side.applies_to(base[0].config):
        return None
    cases = side_by_side.all_cases()[: trial.limit]
    prompts = [case.prompt for case in cases]
    by_seed = [x.stages[0] for x in _paint(base, prompts, range(trial.seeds), options)]
    found = side_by_side.figures_of(judge, cases, np.concatenate(by_seed))
    return _Pairs({"pictures": len(cases) * len(by_seed), **found}, prompts, by_seed[0])


def measure(
    judge: Judge,
    matcher: Matcher | None,
    cases: Sequence[Case],
    by_seed: Sequence[Pictures],
    few: Sequence[Case] = (),
    stages: Sequence[np.ndarray] = (),
) -> Measured:
    """What the judge and the matcher say of pictures.

    Args:
        matcher: None leaves out what it says.
        by_seed: for each seed the base's pictures of the cases.
        few: cases whose pictures by all stages `stages` holds; without any nothing is enlarged.
    """
    opinions = [judge(pictures) for pictures in by_seed]
    found = [
        figures.verdicts(judge, cases, pictures, said, _matched(matcher, cases, pictures))
        for pictures, said in zip(by_seed, opinions, strict=True)
    ]
    true = _true_pictures(judge, matcher, cases, min(SIDE, by_seed[0].shape[1]))

    def of_kind(rows: list[int]) -> Figures:
        features = np.concatenate([opinion.features[rows] for opinion in opinions])
        seen = Seen(features, rows * len(by_seed))
        right = [verdicts[row] for verdicts in found for row in rows]
        return figures.figures_of(right, seen, true.seen.of(rows))

    by_kind: dict[str, Figures] = {
        kind: of_kind([row for row, case in enumerate(cases) if case.kind == kind])
        for kind in KINDS
        if any(case.kind == kind for case in cases)
    }
    by_kind[TRUE] = figures.figures_of(true.verdicts, true.seen, None)
    return Measured(by_kind, found, _enlarged(judge, few, stages) if stages else None)


@dataclasses.dataclass(frozen=True)
class _True:
    """Every true picture of some cases, in all styles that they leave open."""

    seen: Seen
    verdicts: list[Verdict]


def _matched(
    matcher: Matcher | None, cases: Sequence[Case], pictures: Pictures
) -> Sequence[bool | None]:
    return [None] * len(cases) if matcher is None else matcher(cases, pictures)


def _true_pictures(
    judge: Judge, matcher: Matcher | None, cases: Sequence[Case], side: int
) -> _True:
    drawn = [
        (row, case.true_picture(style, side))
        for row, case in enumerate(cases)
        for style in case.true_styles()
    ]
    rows, pictures = [row for row, _ in drawn], np.stack([picture for _, picture in drawn])
    opinions = judge(pictures)
    own = [cases[row] for row in rows]
    found = figures.verdicts(judge, own, pictures, opinions, _matched(matcher, own, pictures))
    return _True(Seen(opinions.features, rows), found)


def _enlarged(judge: Judge, cases: Sequence[Case], stages: Sequence[np.ndarray]) -> Figures:
    """The figures of what all stages made of the cases."""
    side = stages[-1].shape[1]
    true = np.stack([case.true_picture(case.true_styles()[0], side) for case in cases])
    return figures.enlarged_figures(stages, true, judge)


def save_sheets(
    out: Path, cases: Sequence[Case], pictures: Pictures, found: Sequence[Verdict]
) -> None:
    """One sheet a kind of prompt there is, of one seed; + before the prompts that are right."""
    for kind in sorted({case.kind for case in cases}):
        rows = [row for row, case in enumerate(cases) if case.kind == kind]
        captions = [f"{'+' if found[row].all_right else '-'} {cases[row].prompt}" for row in rows]
        _save_sheet(out / f"{kind.replace(' ', '-')}.png", pictures[rows], captions)


def _save_sheet(
    path: Path, pictures: Pictures, captions: Sequence[str], *, large: bool = False
) -> None:
    columns, cell = (_LARGE_COLUMNS, _LARGE_CELL) if large else (_COLUMNS, _CELL)
    starts = range(0, len(pictures), columns)
    rows = [list(pictures[first : first + columns]) for first in starts]
    save_png(grid(rows, [captions[first : first + columns] for first in starts], cell), path)


def _listed(cases: Sequence[Case], found: Sequence[Sequence[Verdict]]) -> list[dict[str, Any]]:
    """Every verdict with its prompt and seed."""
    return [
        {"kind": case.kind, "prompt": case.prompt, "seed": seed, **dataclasses.asdict(verdict)}
        for seed, verdicts in enumerate(found)
        for case, verdict in zip(cases, verdicts, strict=True)
    ]
