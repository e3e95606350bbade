"""Precision and recall by nearest neighbours: how many pictures are like true ones, and how many
true ones are like pictures."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from imagen_jax.evaluation.distances import check_count

Features = Float[np.ndarray, "pictures features"]
OtherFeatures = Float[np.ndarray, "others features"]
Block = tuple[slice, Float[np.ndarray, "_ _"]]

NEIGHBOURS = 3
_ROWS = 1024
"""Of so many features at a time the distances to all others are taken."""


def precision_and_recall(
    pictures: Features, true: OtherFeatures, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """The share of pictures that are near a true one, and of true ones that are near a picture.

        near(a, B) = there is b in B with |a - b| <= |b - NN_k(b, B)|

    where NN_k(b, B) is the k-th nearest to b of the others in B. Kynkaanniemi et al. 2019
    (Improved Precision and Recall Metric), eq. 1 and 2, k = 3. They take VGG-16's features; of
    which network it is, the figure's name must say.

    Raises:
        UsageError: a set has no more features than `neighbours`.
    """
    check_neighbours(min(len(pictures), len(true)), neighbours)
    return (
        float(_is_near(pictures, true, neighbours).mean()),
        float(_is_near(true, pictures, neighbours).mean()),
    )


def check_neighbours(count: int, neighbours: int = NEIGHBOURS) -> None:
    """Raises a UsageError where so few pictures have no such neighbours."""
    check_count(count, neighbours + 1, f"Recall with {neighbours} neighbours")


def _is_near(x: Features, y: OtherFeatures, neighbours: int) -> Bool[np.ndarray, " pictures"]:
    """Whether each of x is no farther from one of y than that one's neighbour."""
    reach = _reach(y, neighbours)
    return np.concatenate([(squares <= reach).any(1) for _, squares in _squares(x, y)])


def _reach(x: Features, neighbours: int) -> Float[np.ndarray, " pictures"]:
    """The squared distance of each to the `neighbours`-th nearest of the others."""
    reach = np.empty(len(x))
    for rows, squares in _squares(x, x):
        own = np.arange(rows.start, rows.stop)
        squares[own - rows.start, own] = np.inf
        reach[rows] = np.partition(squares, neighbours - 1, axis=1)[:, neighbours - 1]
    return reach


def _squares(x: Features, y: OtherFeatures) -> Iterator[Block]:
    """Squared distances of some of x, and which they are, to all of y."""
    y = y.astype(np.float64)
    lengths = np.square(y).sum(1)
    for first in range(0, len(x), _ROWS):
        part = x[first : first + _ROWS].astype(np.float64)
        squares = np.square(part).sum(1)[:, None] + lengths - 2 * part @ y.T
        yield slice(first, first + len(part)), squares.clip(0)
