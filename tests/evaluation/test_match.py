"""The small CLIP that the package ships, on true pictures of prompts."""

import numpy as np
import pytest

from imagen_jax.evaluation.cases import Case, all_cases, first_of_each
from imagen_jax.evaluation.match import SHIPPED, Matcher


@pytest.fixture(scope="module")
def matcher():
    return Matcher()


def drawn(cases: list[Case]) -> np.ndarray:
    return np.stack([case.true_picture(case.true_styles()[0], 64) for case in cases])


def test_true_pictures_are_nearest_to_their_own_prompts(matcher):
    cases = first_of_each(all_cases(), 10)
    pictures = drawn(cases)
    assert np.mean(matcher(cases, pictures)) > 0.7
    # Each picture beside the prompt of the next case of its kind.
    moved = [row + 1 if (row + 1) % 10 else row - 9 for row in range(len(cases))]
    assert np.mean(matcher(cases, pictures[moved])) < 0.1


def test_prompts_are_compared_within_their_kind_alone(matcher):
    banana = Case("seen pairs", "a banana, noto style", "1f34c", style="noto")
    same = Case("held-out colours", "a banana", "1f34c")
    picture = drawn([banana])
    assert matcher([banana], picture) == matcher([same], picture) == [True]
    assert matcher([banana, same], np.concatenate([picture, picture])) == [True, True]


def test_it_is_small():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 8e6
