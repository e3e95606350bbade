"""Distances against their definitions, pair by pair, and on sets whose distance is known."""

import itertools

import numpy as np
import pytest

from imagen_jax.errors import UsageError
from imagen_jax.evaluation import distances
from imagen_jax.evaluation.distances import (
    clip_mmd,
    clip_score,
    frechet_distance,
    judge_kernel_distance,
    kernel_inception_distance,
)
from imagen_jax.evaluation.moments import Moments, moments_of


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


def moments(mean, covariance, count=100):
    return Moments(
        count, np.array(mean, np.float64), np.array(covariance, np.float64) * (count - 1)
    )


def test_frechet_of_known_normals():
    """Of covariances that commute it is the sum of squared differences of deviations."""
    x = moments([1, 2, 3], np.diag([4.0, 9.0, 1.0]))
    y = moments([1, 0, 3], np.diag([1.0, 9.0, 16.0]))
    assert frechet_distance(x, y) == pytest.approx(4 + (2 - 1) ** 2 + (1 - 4) ** 2)


def test_frechet_of_covariances_that_do_not_commute():
    """Of 2x2 matrices tr(M^1/2) = sqrt(tr M + 2 sqrt(det M))."""
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.8], [-0.8, 3.0]])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * root
    assert frechet_distance(moments([0, 0], a), moments([0, 0], b)) == pytest.approx(expected)


def test_frechet_equals_that_with_scipys_root_of_a_matrix():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    x, y = (moments_of(rng.normal(size=(60, 20)) @ rng.normal(size=(20, 20))) for _ in range(2))
    root = linalg.sqrtm(x.covariance @ y.covariance).real
    expected = np.square(x.mean - y.mean).sum()
    expected += np.trace(x.covariance + y.covariance - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_a_set_from_itself_is_zero_even_where_features_depend_on_others():
    features = np.random.default_rng(0).normal(size=(100, 8)) @ np.ones((8, 30))
    x = moments_of(features)
    assert abs(frechet_distance(x, x)) < 1e-10 * np.trace(x.covariance)


@pytest.mark.parametrize("few", [0, 1])
def test_frechet_of_too_few_pictures_is_refused_and_what_is_left_is_named(few):
    sets = [moments([0] * 4, np.eye(4), count=4 if few == side else 5) for side in range(2)]
    with pytest.raises(UsageError, match="4 features takes more than 4 .* are 4; .* .KID, CMMD"):
        frechet_distance(*sets)


def unbiased(x, y, k):
    """Pair by pair."""
    among = [np.mean([k(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y)]
    return sum(among) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_kid_of_whole_sets_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(1, 2, (6, 3))
    mean, deviation = kernel_inception_distance(x, y, subsets=3)
    assert mean == pytest.approx(unbiased(x, y, kernel), rel=1e-12)
    assert deviation < 1e-12


def test_kid_is_the_mean_over_subsets():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 2)), rng.normal(1, 1, (4, 2))
    pairs = itertools.product(itertools.combinations(x, 3), itertools.combinations(y, 3))
    expected = [unbiased(*pair, kernel) for pair in pairs]
    mean, deviation = kernel_inception_distance(x, y, subsets=2000, size=3)
    assert abs(mean - np.mean(expected)) < 4 * np.std(expected) / 2000**0.5
    assert deviation == pytest.approx(np.std(expected), rel=0.1)
    assert mean == kernel_inception_distance(x, y, subsets=2000, size=3)[0]


def test_kid_of_one_distribution_is_about_zero_and_has_no_bias():
    rng = np.random.default_rng(0)
    draws = [
        kernel_inception_distance(*rng.normal(size=(2, 12, 4)), subsets=1)[0] for _ in range(400)
    ]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / len(draws) ** 0.5
    assert min(draws) < 0 < max(draws)


def test_cmmd_is_its_definition(monkeypatch):
    monkeypatch.setattr(distances, "_ROWS", 2)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(1, 2, (4, 3))
    unit = lambda z: [a / np.sqrt(sum(a * a)) for a in z]  # noqa: E731
    k = lambda a, b: np.exp(-sum((a - b) ** 2) / 200)  # noqa: E731
    mean = lambda s, t: np.mean([k(a, b) for a in s for b in t])  # noqa: E731
    u, v = unit(x), unit(y)
    expected = 1000 * (mean(u, u) + mean(v, v) - 2 * mean(u, v))
    assert clip_mmd(x, y) == pytest.approx(expected, rel=1e-9)


def test_cmmd_of_two_points_has_the_closed_form():
    """At right angles |a - b|^2 = 2."""
    x, y = np.array([[3.0, 0.0]]), np.array([[0.0, 0.5]])
    assert clip_mmd(x, y) == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-12)
    assert clip_mmd(x, 7 * x) == pytest.approx(0, abs=1e-9)


def test_clip_scores_are_cosines_times_100_and_never_below_0():
    pictures, texts = np.array([[3.0, 4], [1, 0], [1, 1]]), np.array([[6.0, 8], [0, 2], [-1, -1]])
    np.testing.assert_allclose(clip_score(pictures, texts), [100, 0, 0], atol=1e-9)
    angle = np.array([[np.cos(1.2), np.sin(1.2)]])
    assert clip_score(angle, np.array([[5.0, 0]]))[0] == pytest.approx(100 * np.cos(1.2))


@pytest.mark.parametrize(
    ("measure", "count", "said"),
    [
        (kernel_inception_distance, 1, "KID takes at least 2"),
        (clip_mmd, 0, "CMMD takes at least 1"),
    ],
)
def test_kernel_distances_of_too_few_pictures_are_refused(measure, count, said):
    with pytest.raises(UsageError, match=f"{said} pictures on either side, and there are {count}"):
        measure(np.ones((5, 3)), np.ones((count, 3)))
