"""Figures of pictures: what is right about each, then shares, distances and a table."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from imagen_jax.data import emoji_vectors
from imagen_jax.evaluation import looks
from imagen_jax.evaluation.cases import Case
from imagen_jax.evaluation.distances import judge_kernel_distance
from imagen_jax.evaluation.judge import Judge, Opinions
from imagen_jax.evaluation.tables import table

Pictures = UInt8[np.ndarray, "pictures height width 3"]
LargePictures = UInt8[np.ndarray, "pictures large_height large_width 3"]
Figures = dict[str, int | float | None]
SEVERAL = 5
"""Among how many concepts the right one should be at least."""
LINES = {
    "pictures": "pictures",
    "concept": "concept named first",
    "among_several": f"concept among the first {SEVERAL}",
    "style": "style right",
    "colour": "object's colour right",
    "background": "background's colour right",
    "all_right": "all said is right",
    "matched": "own prompt nearest of its kind",
    "on_white": "background within 3 of white",
    "judge_kernel_distance": "judge kernel distance to true pictures",
}
"""The figures of a kind of prompt, in the order of the table, and what they are called."""
COUNTED = (
    "concept", "among_several", "style", "colour", "background", "all_right", "matched", "on_white",
)  # fmt: skip

NAMED = ("both named", "left one named", "right one named")
"""What is counted of two things side by side."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether one picture is what its prompt says; None where the prompt does not say.

    Attributes:
        named: label of the concept that the judge puts first.
        named_style: the style that it puts first.
        colour: of the object.
        matched: whether the picture is nearest to this prompt, as a small CLIP sees it.
    """

    named: str
    named_style: str
    concept: bool
    among_several: bool
    style: bool | None
    colour: bool | None
    background: bool | None
    on_white: bool | None
    matched: bool | None

    @property
    def all_right(self) -> bool:
        """Is everything right that the prompt says?"""
        said = (self.concept, self.style, self.colour, self.background)
        return all(right for right in said if right is not None)


def verdicts(
    judge: Judge,
    cases: Sequence[Case],
    pictures: Pictures,
    opinions: Opinions,
    matched: Sequence[bool | None],
) -> list[Verdict]:
    """The verdict on each case's picture, from the judge's opinions and what a CLIP matched."""
    ranked = opinions.concepts.argsort(1)[:, ::-1]
    styles = [judge.styles[number] for number in opinions.styles.argmax(1)]

    def verdict(index: int) -> Verdict:
        case, picture = cases[index], pictures[index]
        keys = [judge.concepts[number] for number in ranked[index, :SEVERAL]]
        return Verdict(
            named=emoji_vectors.concepts()[keys[0]].label,
            named_style=styles[index],
            concept=keys[0] == case.concept,
            among_several=case.concept in keys,
            style=styles[index] == case.style if case.style else None,
            colour=looks.object_colour(picture) == case.colour if case.colour else None,
            background=_has_ground(picture, case.background) if case.background else None,
            on_white=None if case.background else looks.is_on_white(picture),
            matched=matched[index],
        )

    return [verdict(index) for index in range(len(cases))]


def _has_ground(picture: looks.Picture, name: str) -> bool:
    return looks.background_name(picture) == name


def share(values: Sequence[bool | None]) -> float | None:
    """The share of those that are True among all that are not None; None without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclasses.dataclass(frozen=True)
class Seen:
    """The judge's features of pictures, and the number of the prompt of each."""

    features: np.ndarray
    prompts: list[int]

    def of(self, prompts: Sequence[int]) -> "Seen":
        """The features of the pictures of these prompts alone."""
        rows = [row for row, prompt in enumerate(self.prompts) if prompt in set(prompts)]
        return Seen(self.features[rows], [self.prompts[row] for row in rows])

    def distance(self, other: "Seen") -> float | None:
        """None of one prompt alone."""
        if min(len(set(self.prompts)), len(set(other.prompts))) < 2:
            return None
        return judge_kernel_distance(self.features, other.features, self.prompts, other.prompts)


def figures_of(found: Sequence[Verdict], seen: Seen, true: Seen | None) -> Figures:
    """The figures of the pictures of one kind of prompt.

    Args:
        seen: these pictures.
        true: the true pictures of the same prompts; None where these are they.
    """
    shares = {name: share([getattr(verdict, name) for verdict in found]) for name in COUNTED}
    distance = None if true is None else seen.distance(true)
    return {"pictures": len(found), **shares, "judge_kernel_distance": distance}


def enlarged_figures(
    stages: Sequence[np.ndarray], true_large: LargePictures, judge: Judge
) -> Figures:
    """The figures of pictures of all stages, from the base up, of the same prompts.

    Args:
        stages: uint8 (pictures, side, side, 3).
        true_large: true pictures of the same prompts as large as the last stage's.
    """
    large = stages[-1]
    prompts = list(range(len(large)))
    seen, true = (Seen(judge(x).features, prompts) for x in (large, true_large))
    drift = "drift of the mean colour, {} -> {} pixels, of 255"
    drifts = {
        drift.format(small.shape[1], larger.shape[1]): looks.colour_drift(small, larger)
        for small, larger in itertools.pairwise(stages)
    }
    side = large.shape[1]
    return {
        "pictures": len(large),
        f"judge kernel distance to true pictures, {side} pixels": seen.distance(true),
        f"edge rise, {side} pixels": _median_rise(large),
        f"edge rise of the vectors, {side} pixels": _median_rise(true_large),
        **drifts,
    }


def _median_rise(pictures: Pictures) -> float | None:
    """None where no picture has an edge."""
    rises = np.array([looks.edge_rise(picture) for picture in pictures])
    return float(np.nanmedian(rises)) if np.isfinite(rises).any() else None


def markdown(columns: dict[str, Figures], enlarged: Figures | None) -> str:
    """Two tables: what is counted of each kind of prompt, and what is measured when enlarged."""
    rows = [["", *columns]]
    rows += [[line, *(_cell(n, of[n]) for of in columns.values())] for n, line in LINES.items()]
    tables = [table(rows)]
    if enlarged is not None:
        tables.append(two_columns("enlarged", enlarged))
    return "\n\n".join(tables)


def two_columns(title: str, of: Figures) -> str:
    """The figures of one kind of picture, one a line."""
    return table([["", title], *([name, _cell(name, value)] for name, value in of.items())])


def _cell(name: str, value: int | float | None) -> str:
    if value is None:
        return ""
    if name == "pictures":
        return str(value)
    return f"{100 * value:.0f}%" if name in (*COUNTED, *NAMED) else f"{value:.3g}"
