"""What a run measures of pictures that it paints while it trains, against a reference."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from imagen_jax.evaluation import measures
from imagen_jax.evaluation.feature_files import FeatureFiles
from imagen_jax.evaluation.features import FeatureNetwork
from imagen_jax.evaluation.moments import Moments, moments_of
from imagen_jax.evaluation.run import open_for

Pictures = UInt8[np.ndarray, "pictures height width 3"]
Features = Float[np.ndarray, "pictures features"]


@dataclasses.dataclass(frozen=True)
class HeldFeatures:
    """Features in memory, to be measured as those in files are."""

    about: dict[str, Any]
    _features: Features

    @property
    def network(self) -> str:
        return self.about["network"]

    def features(self) -> Features:
        return self._features

    def moments(self) -> Moments:
        return moments_of(self._features)


@dataclasses.dataclass(frozen=True)
class TrainingMeasure:
    """Measures pictures against a reference by some of its measures."""

    network: FeatureNetwork
    reference: FeatureFiles
    names: tuple[str, ...]
    batch_size: int

    def features(self, pictures: Pictures) -> Features:
        read = map(self.network.reading, pictures)
        return np.concatenate(list(self.network(read, self.batch_size)))

    def figures(self, features: Features) -> measures.Figures:
        return measures.measure(
            HeldFeatures(self.network.recipe, features), self.reference, self.names
        )


def open_measure(
    reference: FeatureFiles,
    weights: Path,
    names: tuple[str, ...],
    pictures: int,
    *,
    batch_size: int = 32,
) -> TrainingMeasure:
    """A measure for so many pictures.

    Args:
        weights: of the reference's network.
        names: of measures; () for all that the reference has.

    Raises:
        UsageError: too few pictures for a measure, or weights of another recipe.
    """
    measures.check(reference, names, pictures)
    return TrainingMeasure(open_for(reference, weights), reference, names, batch_size)
