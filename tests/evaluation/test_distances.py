"""The judge kernel distance against its definition, and on sets whose distance is known."""

import itertools

import numpy as np
import pytest

from imagen_jax.evaluation.distances import judge_kernel_distance


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Pair by pair."""
    among = [np.mean([kernel(a, b) for a, b in itertools.permutations(rows, 2)]) for rows in (x, y)]
    return sum(among) - 2 * np.mean([kernel(a, b) for a, b in itertools.product(x, y)])


def test_it_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3)), rng.normal(1, 2, (5, 3))
    assert judge_kernel_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-12)


def test_points_of_one_place_each_have_the_closed_form():
    """k(0, 0) = 1, k(s, s) = (s^2 / d + 1)^3 summed over d equal features, k(0, s) = 1."""
    shift = 0.5
    x, y = np.zeros((3, 4)), np.full((2, 4), shift)
    assert judge_kernel_distance(x, y) == pytest.approx((shift**2 + 1) ** 3 - 1)


def test_one_distribution_is_about_zero_away_from_itself():
    rng = np.random.default_rng(0)
    draws = [
        judge_kernel_distance(rng.normal(size=(30, 8)), rng.normal(size=(20, 8)))
        for _ in range(200)
    ]
    error = np.std(draws) / len(draws) ** 0.5
    assert abs(np.mean(draws)) < 3 * error
    assert min(draws) < 0 < max(draws)


def test_it_grows_with_the_shift():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 8)), rng.normal(size=(50, 8))
    distances = [judge_kernel_distance(x, y + shift) for shift in (0, 0.5, 1, 2)]
    assert distances == sorted(distances) and distances[1] > 5 * abs(distances[0])
