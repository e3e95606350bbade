"""`evaluate --prompts` without PICTURES: one command paints and measures, and goes on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from feature_networks import write_clip_vocabulary
from PIL import Image
from scripts import call, refused, tree, verbs

from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.weights.stage_file import save_stage_file

GOLDEN = Path(__file__).parents[1] / "golden" / "clip"
PROMPTS = ("a red apple", "zoo", "tree")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A stage, prompts, CLIP's directory and a reference by it."""
    root = tmp_path_factory.mktemp("cascade")
    config = tiny.stage(sampling={"num_steps": 1})
    save_stage_file(root / "tiny.safetensors", config, tiny.random_params(config), "float32")
    (root / "p.txt").write_text("\n".join(["", *PROMPTS, " "]))
    shutil.copytree(GOLDEN, root / "clip")
    write_clip_vocabulary(root / "clip")
    (root / "true").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "true" / f"{number}.png")
    stats = ("stats", root / "true", root / "ref", "--recipe", "cmmd", "--weights", root / "clip")
    assert call(verbs, *stats).code == 0
    return root


def evaluate(place, *flags, weights=None):
    own = ("--weights", weights or place / "clip", "--reference", place / "ref", "--clip-score")
    return call(verbs, "evaluate", *own, *flags)


def of_cascade(place):
    prompts = ("--prompts", f"prompts:{place / 'p.txt'}", "--num-images", 2)
    return (*prompts, "--base", place / "tiny.safetensors")


def results(out):
    return json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_one_command_paints_and_measures_what_two_do(place, tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    made = evaluate(place, *of_cascade(place), "--batch-size", 4, "--out", one)
    assert made.code == 0 and "CMMD" in made.out and "CLIP score" in made.out
    painted = ("paint", f"prompts:{place / 'p.txt'}", two / "pictures", "--num-images", 2)
    assert call(verbs, *painted, "--base", place / "tiny.safetensors").code == 0
    assert evaluate(place, two / "pictures", "--batch-size", 4, "--out", two).code == 0
    assert results(one) == results(two) and results(one)["features"][0]["pictures"]["count"] == 6
    assert tree(one) == tree(two)

    # Pictures that are there are not painted again, and the figures stay.
    before = tree(one)
    (one / "results.json").unlink()
    monkeypatch.setattr(Cascade, "__call__", None)
    again = evaluate(place, *of_cascade(place), "--batch-size", 4, "--out", one)
    assert again.code == 0 and tree(one) == before


@pytest.mark.slow
def test_what_is_wrong_is_said_before_anything_is_painted(place, tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "no_tokenizer")
    before, out = tree(tmp_path), ("--out", tmp_path / "out")
    own = of_cascade(place)
    for flags, *says in (
        ((*own, "--limit", 3), "--limit is 3", "of the emoji"),
        ((*own, "--seeds", 3), "--seeds is 3", "of the emoji"),
        ((*own, "--measures", "fid"), "'fid'", "cmmd"),
        ((*own, "--count", 4), "4 prompts are asked for"),
        ((*own, "--sr1024", place / "tiny.safetensors"), "--sr256 is missing"),
        ((*own, "--steps", 0), "steps"),
        (("--prompts", "prompts:no.txt"), "no.txt cannot be read"),
    ):
        refused(evaluate(place, *flags, *out), *says)
    for weights, says in (
        (tmp_path / "no_tokenizer", "holds neither tokenizer.json nor"),
        (GOLDEN.with_name("dinov2"), "model_type 'dinov2'"),
    ):
        refused(evaluate(place, *own, *out, weights=weights), says)
    assert tree(tmp_path) == before
