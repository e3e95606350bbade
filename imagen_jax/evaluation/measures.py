"""Named figures from the features of pictures and of a reference."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from imagen_jax.config.choices import FeatureName
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import distances
from imagen_jax.evaluation.feature_files import FeatureFiles
from imagen_jax.evaluation.moments import Moments
from imagen_jax.evaluation.neighbours import NEIGHBOURS, check_neighbours, precision_and_recall
from imagen_jax.evaluation.reading import Reading
from imagen_jax.evaluation.statistics_file import StatisticsFile
from imagen_jax.storage.json_text import shown

Figures = dict[str, float]
Reference = FeatureFiles | StatisticsFile
SEED = 0
"""Of the subsets of KID."""


@runtime_checkable
class Measurable(Protocol):
    """Features of pictures, wherever they are.

    Attributes:
        about: what network made them, and how it read.
    """

    about: dict[str, Any]

    def features(self) -> np.ndarray: ...

    def moments(self) -> Moments: ...


def _fid(pictures: Measurable, reference: Reference) -> Figures:
    return {"FID": distances.frechet_distance(pictures.moments(), reference.moments())}


def _kid(pictures: Measurable, reference: Measurable) -> Figures:
    mean, deviation = distances.kernel_inception_distance(
        pictures.features(), reference.features(), seed=SEED
    )
    return {"KID": mean, "KID, deviation over subsets": deviation}


def _precision_and_recall(pictures: Measurable, reference: Measurable) -> Figures:
    found = precision_and_recall(pictures.features(), reference.features())
    names = (f"{name}, {NEIGHBOURS} neighbours" for name in ("precision", "recall"))
    return dict(zip(names, found, strict=True))


def _cmmd(pictures: Measurable, reference: Measurable) -> Figures:
    return {"CMMD": distances.clip_mmd(pictures.features(), reference.features())}


def _fd_dinov2(pictures: Measurable, reference: Measurable) -> Figures:
    return {"FD-DINOv2": distances.frechet_distance(pictures.moments(), reference.moments())}


class Measure(NamedTuple):
    """One measure.

    Attributes:
        of: gives its figures of pictures and of a reference.
        check: refuses too few pictures, of so many features each.
    """

    of: Callable[[Any, Any], Figures]
    check: Callable[[int, int], None]


_BY_NEIGHBOURS = Measure(_precision_and_recall, lambda count, _: check_neighbours(count))
MEASURES: dict[FeatureName, dict[str, Measure]] = {
    "inception": {
        "fid": Measure(_fid, distances.check_frechet),
        "kid": Measure(_kid, lambda count, _: distances.check_count(count, 2, "KID")),
        "precision-recall": _BY_NEIGHBOURS,
    },
    "clip": {"cmmd": Measure(_cmmd, lambda count, _: distances.check_count(count, 1, "CMMD"))},
    "dinov2": {
        "fd-dinov2": Measure(_fd_dinov2, distances.check_frechet),
        "precision-recall": _BY_NEIGHBOURS,
    },
}
"""What can be said of the features of each network."""
DISTANCES = ("fid", "kid", "cmmd", "fd-dinov2")
"""Those that are one figure, of which less is better."""


def known(reference: Reference) -> dict[str, Measure]:
    """What can be said beside a reference; of statistics alone it is FID."""
    every = MEASURES[reference.network]
    return {"fid": every["fid"]} if isinstance(reference, StatisticsFile) else every


def check_names(names: Sequence[str], references: Sequence[Reference]) -> None:
    """Raises a UsageError unless each of these measures is one of some reference's."""
    every = {name for reference in references for name in known(reference)}
    for name in names:
        if name not in every:
            whats = (
                "statistics" if isinstance(x, StatisticsFile) else x.network for x in references
            )
            raise UsageError(
                f"The measure is {name!r}; of {' and '.join(whats)} it must be one of "
                f"{', '.join(sorted(every))}."
            )


def check(reference: Reference, names: tuple[str, ...], pictures: int) -> None:
    """Raises a UsageError unless a reference has all these measures, and enough pictures for them.

    Args:
        names: of measures; () for all that it has.
        pictures: how many are to be measured.
    """
    check_names(names, [reference])
    count = pictures
    if isinstance(reference, FeatureFiles):
        count = min(pictures, reference.count)
    for name in names or known(reference):
        known(reference)[name].check(count, reference.about["width"])


def check_recipe(recipe: dict[str, Any], reference: Reference) -> None:
    """Raises a UsageError unless a reference was made as features are made now.

    Of statistics nobody can know it.
    """
    if isinstance(reference, StatisticsFile):
        return
    for name, value in recipe.items():
        if reference.about[name] != value:
            raise UsageError(
                f"{reference.directory} is of another recipe: its {name} is "
                f"{shown(reference.about[name])} and that of the pictures {shown(value)}."
            )


def measure(pictures: Measurable, reference: Reference, names: tuple[str, ...]) -> Figures:
    """The figures of these measures, or of all that the network has, by their full names.

    Args:
        reference: made by the same recipe as those of the pictures.
        names: as `check` takes them.
    """
    figures: Figures = {}
    for name in names or known(reference):
        figures |= known(reference)[name].of(pictures, reference)
    return {f"{name} ({named(pictures)})": value for name, value in figures.items()}


def clip_score(pictures: FeatureFiles, texts: np.ndarray) -> Figures:
    """The mean CLIP score of pictures with their own prompts."""
    scores = distances.clip_score(pictures.features(), texts)
    return {f"CLIP score ({named(pictures)})": float(scores.mean())}


def named(features: Measurable) -> str:
    """What a figure's name says of the network and of how it read: the weights by their hash."""
    about = features.about
    return f"{about['network']} {about['weights'][:8]}, {Reading(**about['reading']).name}"
