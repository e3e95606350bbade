"""Measure a cascade by the judge: is what it paints what the prompts say, and how sharp is it?

    python tools/measure_cascade.py
    python tools/measure_cascade.py --true --out out/true
    python tools/measure_cascade.py --base runs/base --limit 10 --seeds 1 --base-only

Every prompt of `imagen_jax.evaluation.cases` is painted by the base once a seed, as
`python sample.py PROMPT --seed SEED` paints it; four prompts of each kind are painted by all stages
too, with seed 0. --true measures the true pictures in their place: what the judge itself
gets wrong. To --out go results.json, a contact sheet of each kind of prompt, and one of the
enlarged pictures; the figures are printed as tables in Markdown.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.data.captioned_emoji import RESOLUTIONS
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.evaluation import figures
from imagen_jax.evaluation.cases import ENLARGED, KINDS, Case, all_cases, digest, first_of_each
from imagen_jax.evaluation.judge import Judge, load_judge
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import grid, save_png
from imagen_jax.pipeline.shipped import STAGES, shipped_stage
from imagen_jax.storage.files import check_writable, write_text

BATCH_SIZE = 16
COLUMNS = 10
CELL = 128
LARGE_CELL = 320

Painter = Callable[[Sequence[Case], int, int], list[np.ndarray]]
"""(cases, seed, number of stages) -> each stage's pictures, one of each case."""


class Painters:
    """Paints with the stages of a cascade, and keeps account of their weights."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.account: dict[str, dict] = {}

    def __call__(self, cases: Sequence[Case], seed: int, stages: int) -> list[np.ndarray]:
        cascade = load_cascade(*self._paths[:stages])
        painted = cascade([case.prompt for case in cases], seed=seed, batch_size=BATCH_SIZE)
        for stage in painted.account:
            self.account[stage["name"]] = stage
        return painted.stages


def true_pictures(cases: Sequence[Case], seed: int, stages: int) -> list[np.ndarray]:
    """Drawn from the vectors; where the prompt names no style, the seed chooses one."""

    def draw(case: Case, side: int) -> np.ndarray:
        styles = case.true_styles()
        return case.true_picture(styles[seed % len(styles)], side)

    return [np.stack([draw(case, side) for case in cases]) for side in RESOLUTIONS[:stages]]


def true_ones(judge: Judge, cases: Sequence[Case]) -> figures.Seen:
    """Every true picture of the cases, in all styles that they leave open."""
    drawn = [
        (number, case.true_picture(style, RESOLUTIONS[0]))
        for number, case in enumerate(cases)
        for style in case.true_styles()
    ]
    prompts, pictures = zip(*drawn, strict=True)
    return figures.Seen(judge(np.stack(pictures)).features, list(prompts))


def measure(
    judge: Judge, cases: Sequence[Case], by_seed: Sequence[np.ndarray], *, are_true: bool
) -> tuple[dict, list[list[figures.Verdict]]]:
    """Figures of each kind of prompt, and the verdicts of each seed.

    Args:
        by_seed: of each seed, the base's pictures of the cases.
    """
    opinions = [judge(pictures) for pictures in by_seed]
    found = [
        figures.verdicts(judge, cases, pictures, opinion)
        for pictures, opinion in zip(by_seed, opinions, strict=True)
    ]

    def of_kind(kind: str) -> figures.Figures:
        rows = [row for row, case in enumerate(cases) if case.kind == kind]
        features = np.concatenate([opinion.features[rows] for opinion in opinions])
        seen = figures.Seen(features, list(range(len(rows))) * len(by_seed))
        true = None if are_true else true_ones(judge, [cases[row] for row in rows])
        return figures.figures_of([v[row] for v in found for row in rows], seen, true)

    return {kind: of_kind(kind) for kind in KINDS}, found


def save_sheets(
    out: Path, cases: Sequence[Case], pictures: np.ndarray, found: Sequence[figures.Verdict]
) -> None:
    """One sheet a kind of prompt, of one seed; + before the prompts that are right."""
    for kind in KINDS:
        rows = [row for row, case in enumerate(cases) if case.kind == kind]
        captions = [f"{'+' if found[row].all_right else '-'} {cases[row].prompt}" for row in rows]
        _save_sheet(out / f"{kind.replace(' ', '-')}.png", pictures[rows], captions, COLUMNS, CELL)


def _save_sheet(
    path: Path, pictures: np.ndarray, captions: Sequence[str], columns: int, cell: int
) -> None:
    starts = range(0, len(pictures), columns)
    rows = [list(pictures[first : first + columns]) for first in starts]
    save_png(grid(rows, [captions[first : first + columns] for first in starts], cell), path)


def enlarge(
    flags: argparse.Namespace, paint: Painter, judge: Judge, cases: Sequence[Case]
) -> figures.Figures:
    """Figures of all stages' pictures of these cases, seed 0, and their sheet."""
    stages = paint(cases, 0, len(STAGES))
    true_large = true_pictures(cases, 0, len(STAGES))[-1]
    captions = [case.prompt for case in cases]
    _save_sheet(flags.out / "enlarged.png", stages[-1], captions, ENLARGED, LARGE_CELL)
    return figures.enlarged_figures(stages, true_large, judge, are_true=flags.true)


def listed(
    cases: Sequence[Case], seeds: Sequence[int], found: Sequence[Sequence[figures.Verdict]]
) -> list[dict]:
    """Every verdict with its prompt and seed."""
    return [
        {"kind": case.kind, "prompt": case.prompt, "seed": seed, **dataclasses.asdict(verdict)}
        for seed, verdicts in zip(seeds, found, strict=True)
        for case, verdict in zip(cases, verdicts, strict=True)
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in STAGES:
        parser.add_argument(f"--{name}", default=str(shipped_stage(name)), metavar="STAGE")
    parser.add_argument("--true", action="store_true", help="measure the true pictures")
    parser.add_argument("--seeds", type=int, default=4, help="so many from 0 on")
    parser.add_argument("--limit", type=int, help="the first so many prompts of each kind")
    parser.add_argument("--base-only", action="store_true", help="leave out what is enlarged")
    parser.add_argument("--out", type=Path, default=Path("out/measured"))
    flags = parser.parse_args()
    for name in ("seeds", "limit"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise UsageError(f"--{name} is {getattr(flags, name)}; it must be at least 1.")
    return flags


def run(flags: argparse.Namespace) -> None:
    check_writable(flags.out, f"--out is {flags.out}")
    judge, everything = load_judge(), all_cases()
    cases = everything if flags.limit is None else first_of_each(everything, flags.limit)
    seeds = range(flags.seeds)
    painters = None if flags.true else Painters([getattr(flags, name) for name in STAGES])
    paint = painters or true_pictures
    by_seed = [paint(cases, seed, 1)[0] for seed in seeds]
    by_kind, found = measure(judge, cases, by_seed, are_true=flags.true)
    save_sheets(flags.out, cases, by_seed[0], found[0])
    enlarged = None
    if not flags.base_only:
        enlarged = enlarge(flags, paint, judge, first_of_each(everything, ENLARGED))
    results = {
        "figures": by_kind, "enlarged": enlarged, "seeds": list(seeds), "limit": flags.limit,
        "cases_sha256": digest(everything), "judge_sha256": judge.digest(),
        "stages": painters.account if painters else "true pictures",
        "versions": package_versions(), "pictures": listed(cases, seeds, found),
    }  # fmt: skip
    write_text(flags.out / "results.json", json.dumps(results, indent=1))
    print(figures.markdown(by_kind, enlarged))


def main() -> None:
    with exit_on_usage_error():
        run(parse())


if __name__ == "__main__":
    main()
