"""`sweep` as from a shell: every point once, gone on with, and drawn."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from feature_networks import write_clip_vocabulary
from PIL import Image
from scripts import call, paint_nothing, refused, tree, verbs

from imagen_jax.evaluation import sweeps
from imagen_jax.evaluation.axes import Axis
from imagen_jax.evaluation.cases import Case
from imagen_jax.evaluation.curves import Measured, draw
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.weights.stage_file import save_stage_file

GOLDEN = Path(__file__).parents[1] / "golden" / "clip"
CASES = [
    Case("seen pairs", "a banana, noto style", "1f34c", style="noto"),
    Case("seen pairs", "a red apple, noto style", "1f34e", style="noto"),
    Case("held-out pairs", "a banana, fluent style", "1f34c", style="fluent"),
]


@pytest.fixture
def called(monkeypatch):
    """The settings of each call of a cascade; every picture is black."""
    paint_nothing(monkeypatch)
    monkeypatch.setattr(sweeps, "all_cases", lambda: CASES)
    calls, ours = [], Cascade.__call__

    def noting(self, prompts, **options):
        calls.append((tuple(prompts), options["seed"], options["guidance_scale"]))
        return ours(self, prompts, **options)

    monkeypatch.setattr(Cascade, "__call__", noting)
    return calls


def sweep(out, *flags):
    return call(verbs, "sweep", out, "--sr256", "none", *flags)


@pytest.mark.slow
def test_points_are_measured_drawn_and_taken_over_by_a_later_sweep(called, tmp_path):
    first = sweep(tmp_path, "--over", "guidance=1,2")
    assert first.code == 0
    prompts = tuple(case.prompt for case in CASES[:2])  # Nothing held out is looked at.
    assert called == [(prompts, 0, [1.0]), (prompts, 0, [2.0])]
    assert first.out == (tmp_path / "table.md").read_text()
    rows = first.out.splitlines()
    assert rows[0].startswith("| guidance | judge: concept named first")
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["1.0", "2.0"]
    more = sweep(tmp_path, "--over", "guidance=1,2,4")
    assert more.code == 0 and [guidance for *_, guidance in called[2:]] == [[4.0]]
    results = json.loads((tmp_path / "results.json").read_text())
    assert [point["settings"]["guidance"] for point in results["points"]] == [1, 2, 4]
    assert Image.open(tmp_path / "sweep.png").size[0] > 300
    for point in results["points"]:  # What was painted can be looked at, and nothing held out.
        kept = {path.name for path in (tmp_path / "points" / point["kept"]).iterdir()}
        assert kept == {"results.json", "seen-pairs.png"}


@pytest.mark.slow
def test_all_that_is_to_be_varied_is_whichever_way_it_is_given(called, tmp_path):
    axes = ("guidance=1,2", "thresholding=none,static")
    apart = sweep(tmp_path / "a", "--over", axes[0], "--over", axes[1])
    together = sweep(tmp_path / "b", "--over", *axes)
    assert apart.code == 0 and together.code == 0
    assert apart.out == together.out and len(apart.out.splitlines()) == 2 + 4


@pytest.mark.slow
def test_a_point_of_several_stages_says_how_sharp_its_pictures_are(called, tmp_path):
    """The judge sees 64 pixels of 256; edges are measured in all of them."""
    out = ("--sr1024", "none", "--over", "sr256.aug_level=0,0.3")
    assert call(verbs, "sweep", tmp_path, *out).code == 0
    points = [json.loads(path.read_bytes()) for path in tmp_path.glob("points/*/results.json")]
    assert [0 < x["enlarged"]["edge rise of the vectors, 256 pixels"] < 2 for x in points] == [
        True, True,
    ]  # fmt: skip


@pytest.mark.slow
def test_points_of_another_command_are_not_taken_over(called, tmp_path):
    assert sweep(tmp_path, "--over", "guidance=1").code == 0
    before = tree(tmp_path)
    again = sweep(tmp_path, "--over", "guidance=1", "--seeds", 2)
    refused(again, "another command or other weights")
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_mistakes_are_found_before_anything_is_painted(called, tmp_path):
    small, run = tmp_path / "tiny.safetensors", functools.partial(sweep, tmp_path / "out")
    save_stage_file(small, tiny.stage(), tiny.random_params(tiny.stage()), "float32", "ema")
    before = tree(tmp_path)
    for result, *says in (
        (run(), "nothing to vary"),
        (run("--over", "sr256.guidance=1"), "ends after base"),
        (run("--over", "guidance=1", "--limit", 1), "--limit is 1"),
        (run("--over", "guidance=1", "--seeds", 0), "seeds is 0"),
        (run("--over", "guidance=1", "--prompts", "prompts:x"), "--clip is missing"),
        (run("--over", "guidance=1", "--prompts", "prompts:x", "--seeds", 2), "--seeds is 2", "of"),
        (run("--over", "guidance=1", "--measure", "kid"), "--measure is kid", "--prompts"),
        (run("--over", "base=shipped,none"), "--base is 'none'"),
        (run("--over", f"base=shipped,{tmp_path / 'no'}"), "no is neither"),
        (run("--over", f"base=shipped,{small}"), "paints 16 pixels"),
        (run("--over", "guidance=1,1e39"), "guidance_scale is 1e+39"),
        (run("--over", "guidance=1", "--base", small), "paints 16 pixels"),
    ):
        refused(result, *says)
    assert called == [] and tree(tmp_path) == before


def test_there_is_a_curve_for_each_value_of_the_other_axes():
    axes = [Axis("guidance", (1.0, 2.0)), Axis("aug_level", (0.0, 0.1))]
    points = [{"guidance": w, "aug_level": a} for a in (0.0, 0.1) for w in (1.0, 2.0)]
    measured = [Measured(point, {"fit": n, "far": n}) for n, point in enumerate(points)]
    both, one = (np.asarray(draw(x, y).convert("RGB"))
                 for x, y in ((axes, measured), (axes, measured[:2])))  # fmt: skip
    colours = [{tuple(c) for c in x.reshape(-1, 3)[::7]} for x in (both, one)]
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert {blue, orange} <= colours[0] and orange not in colours[1]


@pytest.mark.slow
def test_painted_prompts_are_scored_and_held_against_a_reference(monkeypatch, tmp_path):
    """On a tiny CLIP for both; the second time nothing is painted anew."""
    clip, stage = tmp_path / "clip", tmp_path / "tiny.safetensors"
    shutil.copytree(GOLDEN, clip)
    write_clip_vocabulary(clip)
    save_stage_file(stage, tiny.stage(), tiny.random_params(tiny.stage()), "float32", "ema")
    (tmp_path / "p.txt").write_text("a red apple\nzoo\nred tree")
    tiny.folder(tmp_path / "true", 4)
    made = call(
        verbs, "stats", tmp_path / "true", tmp_path / "ref", "--recipe", "cmmd", "--weights", clip
    )
    assert made.code == 0
    command = functools.partial(
        call, verbs, "sweep", tmp_path / "out", "--over", "guidance=1,2", "--base", stage,
        "--steps", 1, "--prompts", f"prompts:{tmp_path / 'p.txt'}", "--clip", clip,
        "--reference", tmp_path / "ref", "--weights", clip, "--measure",
    )  # fmt: skip
    refused(command("fid"), "The measure is 'fid'")
    refused(command("precision-recall"), "'precision-recall'; it must be a distance: fid, kid")
    (clip / "merges.txt").rename(tmp_path / "merges.txt")
    missing = command("cmmd")
    (tmp_path / "merges.txt").rename(clip / "merges.txt")
    assert missing.code == 2 and f"{clip} holds neither tokenizer.json nor" in missing.err
    assert not (tmp_path / "out").exists()
    first = command("cmmd")
    assert first.code == 0, first.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (score, distance) = [name for name in results["points"][0] if name not in ("settings", "kept")]
    (digits,) = {name.split("(clip ")[1].split(",")[0] for name in (score, distance)}
    assert score == f"CLIP score (clip {digits}, centre, bicubic, 20 pixels)"
    assert distance == f"CMMD (clip {digits}, centre, bicubic, 20 pixels)" and len(digits) == 8
    for point in results["points"]:
        kept = tmp_path / "out" / "points" / point["kept"]
        own = json.loads((kept / "measured" / "results.json").read_text())["figures"]
        assert {name: point[name] for name in (score, distance)} == pytest.approx(own)
    monkeypatch.setattr(Cascade, "__call__", lambda *_, **__: pytest.fail("painted again"))
    assert command("cmmd").out == first.out
