"""The script that trains the judge."""

import numpy as np
import pytest
from scripts import call, refused, tool

from imagen_jax.data import emoji_vectors


@pytest.fixture(scope="module")
def trainer():
    return tool("train_judge")


def by_label(label: str) -> emoji_vectors.Concept:
    return next(c for c in emoji_vectors.concepts().values() if c.label == label)


def test_no_apple_is_turned_to_the_colour_of_the_other(trainer):
    assert "green" not in trainer.colours_of(by_label("red apple"))
    assert "red" in trainer.colours_of(by_label("red apple"))
    assert "green" in trainer.colours_of(by_label("banana"))
    assert trainer.colours_of(by_label("red heart")) == []


def test_batches_are_augmented_and_the_same_for_a_seed(trainer):
    groups = [trainer._drawings_of(0, by_label("banana"), "noto")]
    batches = [trainer.batch(groups, 8, np.random.default_rng(0)) for _ in range(2)]
    np.testing.assert_array_equal(batches[0]["images"], batches[1]["images"])
    images = batches[0]["images"]
    assert images.dtype == np.float32 and np.abs(images).max() <= 1
    assert len(np.unique(images.mean((1, 2, 3)))) == 8


def test_a_judge_of_two_styles_does_not_take_the_place_of_the_shipped_one(trainer):
    refused(call(trainer, "--without-style", "fluent"), "--without-style", "--output")
