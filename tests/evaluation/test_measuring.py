"""The scripts that train the judge and measure with it."""

import functools
import json

import numpy as np
import pytest
from scripts import call, paint_nothing, refused, tool

from imagen_jax.data import emoji_vectors
from imagen_jax.evaluation.cases import KINDS, Case

BANANA = "1f34c"


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


CASES = [
    Case("seen pairs", "a banana, noto style", BANANA, style="noto"),
    Case("held-out pairs", "a banana, fluent style", BANANA, style="fluent"),
    Case("held-out colours", "a blue banana", BANANA, colour="blue"),
    Case("held-out backgrounds", "a banana on a red background", BANANA, background="red"),
]


@pytest.fixture
def measure(monkeypatch):
    script = tool("measure_cascade")
    monkeypatch.setattr(script, "all_cases", lambda: CASES)
    return functools.partial(call, script)


def test_true_pictures_are_right_and_all_is_written(measure, tmp_path):
    out = tmp_path / "out"
    result = measure("--true", "--seeds", 2, "--out", out)
    assert result.code == 0
    assert "| all said is right | 100% | 100% | 100% | 100% |" in result.out
    results = json.loads((out / "results.json").read_text())
    assert [(p["prompt"], p["seed"]) for p in results["pictures"]] == [
        (case.prompt, seed) for seed in (0, 1) for case in CASES
    ]
    assert results["enlarged"]["edge rise, 1024 pixels"] < 2
    sheets = {f"{kind.replace(' ', '-')}.png" for kind in KINDS} | {"enlarged.png"}
    assert {path.name for path in out.iterdir()} == sheets | {"results.json"}


def test_black_pictures_are_wrong_and_the_stages_are_named(measure, tmp_path, monkeypatch):
    paint_nothing(monkeypatch)
    result = measure("--seeds", 1, "--base-only", "--out", tmp_path)
    assert result.code == 0
    assert "| background within 3 of white | 0% | 0% | 0% |  |" in result.out
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["stages"]) == ["emoji_base_64"]


@pytest.mark.parametrize("flag", ["--seeds", "--limit"])
def test_none_of_anything_is_refused(measure, flag, tmp_path):
    refused(measure("--true", flag, 0, "--out", tmp_path), flag, "at least 1")
