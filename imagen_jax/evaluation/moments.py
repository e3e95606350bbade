"""Mean and covariance of features that come a batch at a time, in float64."""

import dataclasses

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "pictures features"]


@dataclasses.dataclass(frozen=True)
class Moments:
    """How many features were seen so far, their mean, and how they spread about it.

    Attributes:
        scatter: the sum of (x - mean) (x - mean)^T.
    """

    count: int
    mean: Float[np.ndarray, " features"]
    scatter: Float[np.ndarray, "features features"]

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Float[np.ndarray, "features features"]:
        """Unbiased, scatter / (count - 1), as NumPy's `cov` and every published FID has it."""
        return self.scatter / (self.count - 1)

    def merged(self, other: "Moments") -> "Moments":
        """Those of both sets of features together.

            count = m + n
            mean = mean_m + d n / count, where d = mean_n - mean_m
            scatter = scatter_m + scatter_n + d d^T m n / count

        Chan et al. 1979 (Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances); so nothing is lost where means are large beside spreads.
        """
        count = self.count + other.count
        if count == 0:
            return self
        difference = other.mean - self.mean
        shared = self.count * other.count / count
        return Moments(
            count,
            self.mean + difference * (other.count / count),
            self.scatter + other.scatter + np.outer(difference, difference) * shared,
        )


def no_moments(width: int) -> Moments:
    """Those of no features: `merged` with others they change nothing."""
    return Moments(0, np.zeros(width), np.zeros((width, width)))


def moments_of(features: Features) -> Moments:
    """Those of one batch, of any number of pictures."""
    if not len(features):
        return no_moments(features.shape[1])
    x = features.astype(np.float64)
    mean = x.mean(0)
    return Moments(len(x), mean, (x - mean).T @ (x - mean))


@dataclasses.dataclass(frozen=True)
class StatedMoments:
    """Mean and covariance as others state them, who do not say of how many features."""

    mean: Float[np.ndarray, " features"]
    covariance: Float[np.ndarray, "features features"]

    @property
    def width(self) -> int:
        return len(self.mean)
