"""The judge kernel distance against its definition, and on sets whose distance is known."""

import itertools

import numpy as np
import pytest

from imagen_jax.evaluation.distances import judge_kernel_distance


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3


def by_definition(x: np.ndarray, y: np.ndarray, of_x: list[int], of_y: list[int]) -> float:
    """Pair by pair."""

    def mean(rows, others, prompts, other_prompts) -> float:
        pairs = itertools.product(
            zip(rows, prompts, strict=True), zip(others, other_prompts, strict=True)
        )
        return np.mean([kernel(a, b) for (a, p), (b, q) in pairs if p != q])

    return mean(x, x, of_x, of_x) + mean(y, y, of_y, of_y) - 2 * mean(x, y, of_x, of_y)


def test_it_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3)), rng.normal(1, 2, (5, 3))
    prompts = [0, 1, 0, 2], [0, 0, 1, 2, 2]
    expected = by_definition(x, y, *prompts)
    assert judge_kernel_distance(x, y, *prompts) == pytest.approx(expected, rel=1e-12)


def test_points_of_one_place_each_have_the_closed_form():
    """k(0, 0) = k(0, s) = 1 and k(s, s) = (s^2 + 1)^3, where all features are s."""
    shift = 0.5
    x, y = np.zeros((3, 4)), np.full((2, 4), shift)
    distance = judge_kernel_distance(x, y, range(3), range(2))
    assert distance == pytest.approx((shift**2 + 1) ** 3 - 1)


def test_one_distribution_of_each_prompt_is_about_zero_away_from_itself():
    """The prompts' own means differ by more than their pictures do, as those of concepts."""
    rng = np.random.default_rng(0)
    prompts = [number // 2 for number in range(20)]

    def draw() -> float:
        means = 2 * rng.normal(size=(10, 8))
        x, y = (means[prompts] + rng.normal(size=(20, 8)) for _ in range(2))
        return judge_kernel_distance(x, y, prompts, prompts)

    draws = [draw() for _ in range(300)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / len(draws) ** 0.5
    assert min(draws) < 0 < max(draws)


def test_it_grows_with_the_shift():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 8)), rng.normal(size=(50, 8))
    numbers = range(50)
    distances = [judge_kernel_distance(x, y + shift, numbers, numbers) for shift in (0, 0.5, 1, 2)]
    assert distances == sorted(distances) and distances[1] > 5 * abs(distances[0])
