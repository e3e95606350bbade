"""`evaluate` without pictures: a cascade of emoji measured by the judge, as from a shell."""

import functools
import json

import numpy as np
import pytest
import tiny
from scripts import call, paint_nothing, refused, tree, verbs

from imagen_jax.evaluation import emoji
from imagen_jax.evaluation.cases import KINDS, Case
from imagen_jax.evaluation.judge import load_judge
from imagen_jax.evaluation.match import Matcher
from imagen_jax.weights.stage_file import save_stage_file

BANANA = "1f34c"
CASES = [
    Case("seen pairs", "a banana, noto style", BANANA, style="noto"),
    Case("held-out pairs", "a banana, fluent style", BANANA, style="fluent"),
    Case("held-out colours", "a blue banana", BANANA, colour="blue"),
    Case("held-out backgrounds", "a banana on a red background", BANANA, background="red"),
]
SHEETS = {f"{kind.replace(' ', '-')}.png" for kind in KINDS}
WRITTEN = {"results.json", "table.md"}


@pytest.fixture
def evaluate(monkeypatch):
    """The command, where there is one case of each kind and every picture is black."""
    paint_nothing(monkeypatch)
    monkeypatch.setattr(emoji, "all_cases", lambda: CASES)
    return functools.partial(call, verbs, "evaluate")


def drawn(side: int) -> np.ndarray:
    return np.stack([case.true_picture(case.true_styles()[0], side) for case in CASES])


def test_true_pictures_are_as_right_as_those_beside_them():
    found = emoji.measure(
        load_judge(), Matcher(), CASES, [drawn(64)], CASES, [drawn(64), drawn(256)]
    )
    assert "| all said is right | 100% | 100% | 100% | 100% | 100% |" in found.markdown
    assert found.columns["true pictures"]["pictures"] == sum(len(c.true_styles()) for c in CASES)
    assert found.enlarged["edge rise, 256 pixels"] < 2


def test_small_pictures_are_held_against_true_ones_as_small():
    found = emoji.measure(load_judge(), Matcher(), CASES * 2, [np.concatenate([drawn(32)] * 2)])
    assert "| all said is right | 100% | 100% | 100% | 100% | 100% |" in found.markdown


def test_without_a_matcher_nothing_is_said_of_the_nearest_prompt():
    found = emoji.measure(load_judge(), None, CASES, [drawn(64)])
    assert {of["matched"] for of in found.columns.values()} == {None}
    assert "| own prompt nearest of its kind |  |  |  |  |  |" in found.markdown


@pytest.mark.slow
def test_black_pictures_are_wrong_and_all_is_written(evaluate, tmp_path):
    result = evaluate("--seeds", 2, "--out", tmp_path)
    assert result.code == 0
    assert "| background within 3 of white | 0% | 0% | 0% |  | 100% |" in result.out
    assert {path.name for path in tmp_path.iterdir()} == SHEETS | WRITTEN | {"enlarged.png"}
    assert (tmp_path / "table.md").read_text() == result.out
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(p["prompt"], p["seed"]) for p in results["pictures"]] == [
        (case.prompt, seed) for seed in (0, 1) for case in CASES
    ]
    assert [stage["name"] for stage in results["stages"]] == [
        "emoji_base_64", "emoji_sr_256", "emoji_sr_1024",
    ]  # fmt: skip
    assert results["stages"][0]["sampling"]["guidance_scale"] == 3


@pytest.mark.slow
def test_a_base_alone_enlarges_nothing(evaluate, tmp_path):
    result = evaluate("--sr256", "none", "--guidance", 2, "--out", tmp_path)
    assert result.code == 0
    assert {path.name for path in tmp_path.iterdir()} == SHEETS | WRITTEN
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["enlarged"] is None
    assert results["stages"][0]["sampling"]["guidance_scale"] == 2


@pytest.mark.slow
def test_nothing_is_written_where_something_is_wrong(evaluate, tmp_path):
    config = tiny.stage()
    small = tmp_path / "tiny.safetensors"
    save_stage_file(small, config, tiny.random_params(config), "float32", "ema")
    before = tree(tmp_path)
    out = ("--out", tmp_path / "out")
    for arguments, *says in (
        (("--seeds", 0), "seeds is 0", "positive"),
        (("--limit", 0), "limit is 0", "positive"),
        (("--base", small), str(small), "paints 16 pixels", "judge"),
        (("--clip-score",), "--clip-score is True", "PICTURES"),
        (("--weights", small), "--weights is", "PICTURES"),
        ((tmp_path, "--base", small), "--base is", "PICTURES"),
        ((tmp_path, "--steps", 3), "--steps is 3", "PICTURES"),
        ((tmp_path, "--seeds", 3), "--seeds is 3", "PICTURES"),
        ((tmp_path,), "--weights is missing"),
    ):
        refused(evaluate(*out, *arguments), *says)
    refused(evaluate("--out", small), "--out is", "must be a directory")
    assert tree(tmp_path) == before
