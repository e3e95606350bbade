"""The files of a run: written batch by batch, gone on from, and never those of another run."""

import json
import types

import jax
import numpy as np
import pytest
import tiny
from scripts import call, refused, sample, tree

from imagen_jax.conditions import Conditions
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline import painting, stage
from imagen_jax.pipeline.prompts import PromptEmbeddings
from imagen_jax.pipeline.results import Results, described
from imagen_jax.pipeline.subjects import StageInputs
from imagen_jax.stored.stages import StoredNetwork, open_stage
from imagen_jax.weights.stage_file import save_stage_file

PROMPTS = ("a red apple", "红", "🚀")
CONFIGS = (
    tiny.stage(),
    tiny.super_resolution(name="sr", low_resolution=16, resolution=32),
)
SETTINGS = {"seed": 3, "num_images": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    directory, steps = tmp_path_factory.mktemp("stages"), []
    for config in CONFIGS:
        path = directory / f"{config.name}.safetensors"
        save_stage_file(path, config, tiny.random_params(config), "float32")
        stage = open_stage(path)
        steps.append(painting.SampledStage(stage, stage.config.sampling))
    return steps


@pytest.fixture(autouse=True)
def plain_painting(monkeypatch):
    """Pictures at once that depend on the prompt, the number and the picture below alone."""

    def painter(run, gather):
        def paint(params, numbers, keys, inputs, null, *_, **__):
            low, text = inputs.pictures.get("low_res"), inputs.text
            below = 0 if low is None else np.asarray(low).mean((1, 2, 3)).round()
            number = np.asarray(jax.random.key_data(keys))[:, 1] + 50 * np.asarray(text)[:, 0, 0]
            value = (np.asarray(number) + below).astype(np.uint8)
            pictures = np.broadcast_to(value[:, None, None, None], (len(value), *run.size, 3))
            return pictures, np.ones(len(value), bool)

        return paint

    load = StoredNetwork.load
    monkeypatch.setattr(StoredNetwork, "load", lambda network, mesh: (
        {"x": np.zeros(2)} if network.name == "unet" else load(network, mesh)))  # fmt: skip
    monkeypatch.setattr(stage, "Run", lambda *given: types.SimpleNamespace(size=given[3]))
    monkeypatch.setattr(stage, "StepwiseSampler", painter)


def texts_of(prompts=PROMPTS, encoder="e"):
    text = np.arange(len(prompts), dtype=np.float32)[:, None, None] + np.zeros(
        (1, 2, 4), np.float32
    )
    embedded = PromptEmbeddings(text, np.ones(text.shape[:2], bool), None, encoder, tuple(prompts))
    return [StageInputs.prompts(embedded)] * 2


class Stopped(Exception):
    pass


def run(out, steps, *, resume=False, stop_after=None, texts=None, **settings):
    """Paints all; the rows that were painted, stage after stage."""
    settings, painted, texts = SETTINGS | settings, [], texts or texts_of()

    class Watched(Results):
        def keep(self, rows, pictures):
            if len(painted) == stop_after:
                raise Stopped
            super().keep(rows, pictures)
            painted.append((self._stage, list(rows)))

    results = Watched(out, texts[0].names, settings, steps, texts, resume=resume)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    *_, last = painting.paint(
        [stage.Stage(step.stage, mesh) for step in steps], steps, texts, keeper=results,
        seed=settings["seed"], num_images=settings["num_images"],
        batch_size=settings["batch_size"],
    )  # fmt: skip
    results.finish(last.pictures)
    return painted


ALL = [(0, [0, 1]), (0, [2]), (1, [0, 1]), (1, [2])]


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(stop_after, steps, tmp_path):
    assert run(tmp_path / "whole", steps) == ALL
    with pytest.raises(Stopped):
        run(tmp_path / "out", steps, stop_after=stop_after)
    there = set(tree(tmp_path / "out")) if stop_after else set()
    pictures = {f"{p}-{s}" for s, rows in ALL[:stop_after] for p in rows}
    assert len(there) == len(pictures) + bool(pictures)
    assert run(tmp_path / "out", steps, resume=True) == ALL[stop_after:]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert run(tmp_path / "out", steps, resume=True) == []
    assert run(tmp_path / "out", steps) == ALL  # Without --resume nothing is taken over.


def test_what_is_damaged_or_missing_is_painted_again(steps, tmp_path):
    out = tmp_path / "out"
    run(out, steps)
    before = tree(out)
    data = bytearray((out / "01-红-0-16.png").read_bytes())
    data[-20] ^= 1
    (out / "01-红-0-16.png").write_bytes(data)
    (out / "02-rocket-0-32.png").unlink()
    (out / "contact_sheet.png").unlink()
    assert run(out, steps, resume=True) == [(0, [0, 1]), (1, [2])]
    assert tree(out) == before


def test_what_is_known_outlives_a_second_stop(steps, tmp_path):
    out = tmp_path / "out"
    run(out, steps)
    before = tree(out)
    (out / "00-a-red-apple-0-16.png").unlink()
    (out / "02-rocket-0-16.png").unlink()
    with pytest.raises(Stopped):
        run(out, steps, resume=True, stop_after=1)
    assert run(out, steps, resume=True) == [(0, [2])]
    assert tree(out) == before


def test_another_run_is_not_gone_on_with(steps, tmp_path):
    out = tmp_path / "out"
    run(out, steps)
    before = tree(out)
    fewer = [painting.SampledStage(s.stage, tiny.replace(s.settings, num_steps=2)) for s in steps]
    others = [
        ({"seed": 4}, steps, "its seed is 3 and that of this run 4"),
        ({"batch_size": 3}, steps, "its batch_size is 2"),
        ({"num_images": 2}, steps, "its num_images is 1"),
        ({"texts": texts_of(PROMPTS[::-1])}, steps, "its picture 0.prompt is 'a red apple'"),
        ({"texts": texts_of(PROMPTS[:2])}, steps, "its number of pictures is 3"),
        ({"texts": texts_of(encoder="f")}, steps, "its stage 0.text_encoder_sha256 is 'e'"),
        ({}, fewer, "its stage 0.sampling is"),
    ]
    for changes, stages, says in others:
        with pytest.raises(UsageError, match="manifest.json is of another run: ") as error:
            run(out, stages, resume=True, **changes)
        assert says in str(error.value) and "\n" not in str(error.value)
    manifest = json.loads(before["manifest.json"])
    manifest["stages"][1]["unet_sha256"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="the weights of sr.safetensors were others"):
        run(out, steps, resume=True)


def test_a_manifest_that_cannot_be_read_is_refused(steps, tmp_path):
    run(tmp_path, steps)
    text = (tmp_path / "manifest.json").read_text()
    odd = [None, 1, "x", [], [1], [None] * 3, {}, [{}] * 3, [{"prompt": 1}], {"a": [[[]]]}]
    for name, was in json.loads(text).items():
        for value in (value for value in odd if value != was):
            (tmp_path / "manifest.json").write_text(json.dumps(json.loads(text) | {name: value}))
            with pytest.raises(UsageError, match="is of another run"):
                run(tmp_path, steps, resume=True)
    for broken in (text[:100], "[" * 100_000, "[]"):
        (tmp_path / "manifest.json").write_text(broken)
        with pytest.raises(UsageError, match=r"manifest\.json (is not JSON|holds a list)"):
            run(tmp_path, steps, resume=True)


@pytest.mark.parametrize("odd", [None, 1, [1, None], ["x"], [["a"], {}], {"a": 1}])
def test_what_a_manifest_does_not_know_is_painted(odd, steps, tmp_path):
    run(tmp_path, steps)
    before = tree(tmp_path)
    for name in ("files", "sha256"):
        manifest = json.loads(before["manifest.json"])
        manifest["pictures"][0][name] = odd
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        assert run(tmp_path, steps, resume=True) == [(0, [0, 1]), (1, [0, 1])]
        assert tree(tmp_path) == before


def test_two_stages_of_one_side_have_files_of_their_own(steps, tmp_path):
    twice = [steps[0], steps[1], steps[1]]
    run(tmp_path, twice, texts=texts_of() + texts_of()[:1])
    names = [p["files"] for p in json.loads((tmp_path / "manifest.json").read_text())["pictures"]]
    assert [name.partition("0-")[2] for name in names[2]] == ["16.png", "32.png", "32-2.png"]
    assert len(tree(tmp_path)) == 9 + 2


def test_a_picture_that_is_not_finite_ends_the_run_and_those_before_stay(
    steps, tmp_path, monkeypatch
):
    painter = stage.StepwiseSampler

    def failing(*of_run):
        paint = painter(*of_run)
        return lambda *inputs, **_: (paint(*inputs)[0], np.asarray(inputs[3].text)[:, 0, 0] < 2)

    monkeypatch.setattr(stage, "StepwiseSampler", failing)
    says = r"Picture 0 of '🚀' holds numbers that are not finite after .*safetensors"
    with pytest.raises(UsageError, match=says):
        run(tmp_path, steps)
    assert set(tree(tmp_path)) == {
        "manifest.json", "00-a-red-apple-0-16.png", "01-红-0-16.png",
    }  # fmt: skip


def test_a_prompt_whose_embedding_is_not_finite_is_named():
    text, mask = np.zeros((2, 3, 4), np.float32), np.ones((2, 3), bool)
    text[1, 2, 0] = np.inf
    with pytest.raises(UsageError, match="embedding of 'b' holds numbers that are not finite"):
        PromptEmbeddings(text, mask, None, "", ("a", "b"))
    with pytest.raises(UsageError, match="embedding of the empty text holds numbers"):
        PromptEmbeddings(text[:1], mask[:1], (text[1:], mask[1:]), "", ("a",))


def test_the_flag_takes_up_a_run_and_refuses_another(steps, tmp_path):
    base = ["--base", steps[0].stage.origin, "--sr256", "none", "--out", tmp_path / "out"]
    assert call(sample, *PROMPTS, *base, "--resume").code == 0
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "02-rocket-0-16.png").unlink()
    assert call(sample, *PROMPTS, *base, "--resume").code == 0
    assert tree(tmp_path / "out") == before
    refused(call(sample, *PROMPTS, *base, "--resume", "--seed", 1), "its seed is 0 and that of")
    assert tree(tmp_path / "out") == before


def test_a_manifest_says_newer_settings_where_they_are_on_alone(steps):
    """So that one of an older version, which does not have them, can be made again."""
    inputs = StageInputs(PROMPTS, Conditions())
    of_old = described(steps[0], inputs)["sampling"]
    added = {"guidance_parallel", "guidance_max_norm", "guidance_momentum", "renoising"}
    assert not added & of_old.keys()
    assert of_old["guidance_scale"] == steps[0].settings.guidance_scale
    changed = tiny.replace(steps[0], settings={"guidance_parallel": 0.0})
    assert described(changed, inputs)["sampling"] == of_old | {"guidance_parallel": 0.0}
