"""Running means and covariances against NumPy's of everything at once."""

import itertools

import numpy as np
import pytest

from imagen_jax.evaluation.moments import moments_of, no_moments

FEATURES = 5
X = np.random.default_rng(0).normal(3, 2, (23, FEATURES)).astype(np.float32)


def by_batches(x, size):
    total = no_moments(FEATURES)
    for first in range(0, len(x), size):
        total = total.merged(moments_of(x[first : first + size]))
    return total


def assert_those_of(moments, x):
    x = x.astype(np.float64)
    assert moments.count == len(x) and moments.width == FEATURES
    assert moments.mean.dtype == moments.scatter.dtype == np.float64
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", [1, 4, 7, 22, 23, 50])
def test_every_feature_counts_once_whatever_the_batch(size):
    """23 is a multiple of none but 1: the last batch is a part of one."""
    assert_those_of(by_batches(X, size), X)


def test_order_and_grouping_do_not_matter():
    parts = [moments_of(x) for x in np.split(X, [3, 4, 15])]
    for a, b, c, d in itertools.permutations(parts):
        assert_those_of(a.merged(b).merged(c.merged(d)), X)


def test_nothing_changes_nothing():
    nothing, some = no_moments(FEATURES), moments_of(X)
    for merged in (nothing.merged(some), some.merged(nothing)):
        assert_those_of(merged, X)
    assert nothing.merged(nothing).count == moments_of(X[:0]).count == 0


def test_a_small_spread_about_a_large_mean_is_not_lost():
    """Of a sum of squares, 1e14 here, float64 keeps no digit of a variance of 1e-4."""
    x = 1e7 + np.random.default_rng(1).normal(0, 1e-2, (2000, FEATURES))
    np.testing.assert_allclose(by_batches(x, 64).covariance, np.cov(x.T), rtol=1e-4, atol=1e-9)
