"""Precision and recall against their definition, pair by pair, and on sets where they are known."""

import numpy as np
import pytest

from imagen_jax.errors import UsageError
from imagen_jax.evaluation import neighbours
from imagen_jax.evaluation.neighbours import precision_and_recall


def by_definition(x, y, k):
    """The share of x within the k-th neighbour's distance of one of y."""

    def reach(index):
        others = [np.linalg.norm(y[index] - y[j]) for j in range(len(y)) if j != index]
        return sorted(others)[k - 1]

    near = [any(np.linalg.norm(a - y[i]) <= reach(i) for i in range(len(y))) for a in x]
    return np.mean(near)


@pytest.mark.parametrize("k", [1, 3])
def test_they_are_their_definition(monkeypatch, k):
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(20, 3)), rng.normal(0.7, 1, (23, 3))
    expected = by_definition(x, y, k), by_definition(y, x, k)
    assert precision_and_recall(x, y, k) == pytest.approx(expected)
    assert min(expected) > 0 and max(expected) < 1


def test_sets_far_apart_have_nothing_in_common():
    x = np.random.default_rng(0).normal(size=(10, 4))
    assert precision_and_recall(x, x + 100) == (0, 0)


def test_a_set_is_like_itself():
    x = np.random.default_rng(0).normal(size=(10, 4))
    assert precision_and_recall(x, x) == (1, 1)


def test_one_of_two_clusters_is_precise_and_recalls_half():
    rng = np.random.default_rng(0)
    true = np.concatenate([rng.normal(size=(200, 2)), 50 + rng.normal(size=(200, 2))])
    precision, recall = precision_and_recall(rng.normal(size=(200, 2)), true)
    assert precision > 0.9 and 0.45 < recall <= 0.5


def test_too_few_pictures_are_refused():
    x = np.zeros((4, 2))
    assert precision_and_recall(x, x) == (1, 1)
    with pytest.raises(UsageError, match="3 neighbours takes at least 4 .* and there are 3"):
        precision_and_recall(x[:3], x)
