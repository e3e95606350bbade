"""Named figures from the features of pictures and of a reference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.config.choices import FeatureName
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import distances
from imagen_jax.evaluation.feature_files import FeatureFiles
from imagen_jax.evaluation.neighbours import NEIGHBOURS, check_neighbours, precision_and_recall
from imagen_jax.evaluation.reading import Reading
from imagen_jax.storage.json_text import shown

Figures = dict[str, float]
SEED = 0
"""Of the subsets of KID."""


def _fid(pictures: FeatureFiles, reference: FeatureFiles) -> Figures:
    return {"FID": distances.frechet_distance(pictures.moments(), reference.moments())}


def _kid(pictures: FeatureFiles, reference: FeatureFiles) -> Figures:
    mean, deviation = distances.kernel_inception_distance(
        pictures.features(), reference.features(), seed=SEED
    )
    return {"KID": mean, "KID, deviation over subsets": deviation}


def _precision(pictures: FeatureFiles, reference: FeatureFiles) -> Figures:
    found = precision_and_recall(pictures.features(), reference.features())
    names = (f"{name}, {NEIGHBOURS} neighbours" for name in ("precision", "recall"))
    return dict(zip(names, found, strict=True))


def _cmmd(pictures: FeatureFiles, reference: FeatureFiles) -> Figures:
    return {"CMMD": distances.clip_mmd(pictures.features(), reference.features())}


def _fd_dinov2(pictures: FeatureFiles, reference: FeatureFiles) -> Figures:
    return {"FD-DINOv2": distances.frechet_distance(pictures.moments(), reference.moments())}


class Measure(NamedTuple):
    """One measure.

    Attributes:
        of: gives its figures of pictures and of a reference.
        check: refuses too few pictures, of so many features each.
    """

    of: Callable[[FeatureFiles, FeatureFiles], Figures]
    check: Callable[[int, int], None]


_RECALL = Measure(_precision, lambda count, _: check_neighbours(count))
MEASURES: dict[FeatureName, dict[str, Measure]] = {
    "inception": {
        "fid": Measure(_fid, distances.check_frechet),
        "kid": Measure(_kid, lambda count, _: distances.check_count(count, 2, "KID")),
        "precision-recall": _RECALL,
    },
    "clip": {"cmmd": Measure(_cmmd, lambda count, _: distances.check_count(count, 1, "CMMD"))},
    "dinov2": {
        "fd-dinov2": Measure(_fd_dinov2, distances.check_frechet),
        "precision-recall": _RECALL,
    },
}
"""What can be said of the features of each network."""


def check(reference: FeatureFiles, names: tuple[str, ...], pictures: int) -> None:
    """Raises a UsageError unless a reference has all these measures, and enough pictures for them.

    Args:
        names: of measures; () for all that it has.
        pictures: how many are to be measured.
    """
    known = MEASURES[reference.network]
    for name in names or known:
        if name not in known:
            raise UsageError(
                f"The measure is {name!r}; of {reference.network} it must be one of "
                f"{', '.join(known)}."
            )
        known[name].check(min(pictures, reference.count), reference.about["width"])


def check_recipe(recipe: dict[str, Any], reference: FeatureFiles) -> None:
    """Raises a UsageError unless a reference was made as features are made now."""
    for name, value in recipe.items():
        if reference.about[name] != value:
            raise UsageError(
                f"{reference.directory} is of another recipe: its {name} is "
                f"{shown(reference.about[name])} and that of the pictures {shown(value)}."
            )


def measure(pictures: FeatureFiles, reference: FeatureFiles, names: tuple[str, ...]) -> Figures:
    """The figures of these measures, or of all that the network has, by their full names.

    Args:
        reference: made by the same recipe as those of the pictures.
        names: as `check` takes them.
    """
    known = MEASURES[pictures.network]
    figures: Figures = {}
    for name in names or known:
        figures |= known[name].of(pictures, reference)
    return {f"{name} ({named(pictures)})": value for name, value in figures.items()}


def clip_score(pictures: FeatureFiles, texts: np.ndarray) -> Figures:
    """The mean CLIP score of pictures with their own prompts."""
    scores = distances.clip_score(pictures.features(), texts)
    return {f"CLIP score ({named(pictures)})": float(scores.mean())}


def named(features: FeatureFiles) -> str:
    """What a figure's name says of the network and of how it read: the weights by their hash."""
    about = features.about
    return f"{about['network']} {about['weights'][:8]}, {Reading(**about['reading']).name}"
