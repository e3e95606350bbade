"""Sets of prompts painted some at a time: the pictures of one call, killed and gone on with."""

import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, refused, tree, verbs

import imagen_jax
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import painting
from imagen_jax.evaluation.pictures import open_pictures
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.storage.digests import sealed
from imagen_jax.weights.stage_file import save_stage_file

PROMPTS = ("a red apple", "a cat face", "a dog", "two dogs", "a car")
CONFIG = tiny.stage(name="tiny_base", sampling={"num_steps": 2})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stages")
    for seed, name in enumerate(("one", "other")):
        params = tiny.random_params(CONFIG, seed)
        save_stage_file(directory / f"{name}.safetensors", CONFIG, params, "float32")
    (directory / "prompts.txt").write_text("\n".join(PROMPTS))
    return directory


@pytest.fixture(autouse=True)
def two_prompts_at_a_time(monkeypatch):
    monkeypatch.setattr(painting, "CHUNK", 2)


def paint(files, out, *flags, stage="one"):
    return call(
        verbs, "paint", f"prompts:{files / 'prompts.txt'}", out, "--base",
        files / f"{stage}.safetensors", "--sr256", "none", "--num-images", "2", *flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def painted(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("painted") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(painting, "CHUNK", 2)
        result = paint(files, out, "--seed", "3")
    assert result.code == 0 and result.out == f"{out}: 10 pictures of 5 prompts\n"
    return out


@pytest.mark.slow
def test_pictures_are_those_of_one_call_with_their_prompts(files, painted):
    cascade = imagen_jax.load_cascade(files / "one.safetensors")
    manifest = json.loads((painted / "manifest.json").read_text())
    seeds = [entry["seed"] for entry in manifest["pictures"][::2]]
    assert len(set(seeds)) == len(PROMPTS)  # No two prompts begin with the same noise.
    assert not set(seeds) & set(painting.prompt_seeds(4, len(PROMPTS)))
    expected = cascade(PROMPTS, num_images=2, seed=seeds, batch_size=4).stages[-1]
    pictures = open_pictures(painted)
    assert pictures.prompts == tuple(prompt for prompt in PROMPTS for _ in range(2))
    for name, picture in zip(pictures.names, expected, strict=True):
        difference = np.asarray(Image.open(painted / name)).astype(int) - picture
        assert np.abs(difference).max() <= 1  # Batches of other sizes round otherwise.


@pytest.mark.slow
def test_a_killed_run_goes_on_with_what_is_missing(files, painted, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(painted, out)
    names = open_pictures(out).names
    (out / names[5]).unlink()
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["sha256"]
    for picture in manifest["pictures"][8:]:
        picture["files"], picture["sha256"] = [], []
    (out / "manifest.json").write_text(json.dumps(sealed(manifest)))
    refused(call(verbs, "stats", out, tmp_path / "s", "--weights", "w"), "unfinished: picture 8")
    called, ours = [], Cascade.__call__

    def noting(self, prompts, **options):
        called.append(prompts)
        return ours(self, prompts, **options)

    monkeypatch.setattr(Cascade, "__call__", noting)
    assert paint(files, out, "--seed", "3").code == 0
    assert called == [["a dog", "two dogs"], ["a car"]]
    assert tree(out) == tree(painted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seed", "4"], "begun by another command: its seed is 3 and that of this one 4"),
        (["--seed", "-1"], "The seed is -1"),
        (["--seed", "3", "--guidance", "2"], "begun by another command"),
        (["--seed", "3", "--count", "4"], "begun by another command"),
        (["--seed", "3", "--count", "0"], "0 prompts are asked for"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--weights", "raw"], "holds ema weights only; raw were asked for"),
        (["--split", "test"], "only a data set has"),
    ],
)
def test_another_command_and_bad_flags_are_refused(files, painted, flags, says):
    before = tree(painted)
    refused(paint(files, painted, *flags), says)
    assert tree(painted) == before


def test_where_nothing_can_be_written_is_said_before_stages_are_opened(tmp_path):
    (tmp_path / "file").touch()
    result = call(verbs, "paint", "prompts:none.txt", tmp_path / "file" / "out", "--base", "none")
    refused(result, f"OUT is {tmp_path / 'file' / 'out'}, but", "is a file; it must be a directory")


@pytest.mark.slow
def test_pictures_for_geneval_lie_as_it_reads_them(files, tmp_path):
    lines = [{"tag": "counting", "prompt": "two dogs", "include": []}, {"prompt": "a car"}]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    result = call(
        verbs, "paint", f"geneval:{tmp_path / 'e.jsonl'}", out, "--base", files / "one.safetensors",
        "--num-images", 2,
    )  # fmt: skip
    assert result.code == 0
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == [
        "00000/metadata.jsonl", "00000/samples/00000.png", "00000/samples/00001.png",
        "00001/metadata.jsonl", "00001/samples/00000.png", "00001/samples/00001.png",
        "manifest.json",
    ]  # fmt: skip
    for number, line in enumerate(lines):
        assert json.loads((out / f"{number:05}" / "metadata.jsonl").read_text()) == line
    assert open_pictures(out).prompts == ("two dogs", "two dogs", "a car", "a car")


@pytest.mark.slow
def test_stored_embeddings_paint_the_same_and_take_no_encoder(files, painted, tmp_path):
    stage = files / "one.safetensors"
    embedded = call(
        verbs, "embed", f"prompts:{files / 'prompts.txt'}", tmp_path / "e", "--stage", stage
    )
    assert embedded.code == 0
    out = tmp_path / "out"
    assert paint(files, out, "--seed", 3, "--embeddings", tmp_path / "e").code == 0
    for name in open_pictures(painted).names:
        ours, theirs = (np.asarray(Image.open(path / name)).astype(int) for path in (out, painted))
        assert np.abs(ours - theirs).mean() < 2  # Embeddings are stored in bfloat16.
    (tmp_path / "more.txt").write_text("a whale")
    refused(
        call(
            verbs, "paint", f"prompts:{tmp_path / 'more.txt'}", tmp_path / "o", "--base", stage,
            "--embeddings", tmp_path / "e",
        ),
        "'a whale' has no embedding",
    )  # fmt: skip


@pytest.mark.slow
def test_other_weights_are_refused(files, painted, tmp_path):
    """Where nothing is left to paint too."""
    out = tmp_path / "out"
    shutil.copytree(painted, out)
    for _ in range(2):
        before = tree(out)
        refused(paint(files, out, "--seed", "3", stage="other"), "was begun with other weights")
        assert tree(out) == before
        (out / open_pictures(out).names[0]).unlink(missing_ok=True)


@pytest.mark.slow
def test_another_text_encoder_is_another_painter(files, painted, tmp_path):
    params = tiny.random_params(CONFIG)
    params["text_encoder"] = tiny.random_params(CONFIG, 1)["text_encoder"]
    save_stage_file(files / "retold.safetensors", CONFIG, params, "float32")
    shutil.copytree(painted, tmp_path / "out")
    result = paint(files, tmp_path / "out", "--seed", "3", stage="retold")
    refused(result, "was begun with other weights")


@pytest.mark.slow
def test_a_manifest_that_was_changed_is_refused(files, painted, tmp_path):
    shutil.copytree(painted, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace("two dogs", "two cats"))
    refused(paint(files, tmp_path / "out", "--seed", "3"), "does not match its sha256")


@pytest.mark.slow
@pytest.mark.parametrize("listed", [{}, {"pictures": 3}, {"pictures": [{"files": ["a"]}]}])
def test_a_list_of_pictures_may_be_anyones(files, painted, tmp_path, listed):
    shutil.copytree(painted, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(sealed({"plan": json.loads(path.read_text())["plan"], **listed})))
    refused(paint(files, tmp_path / "out", "--seed", "3"), "does not list pictures")


def test_a_directory_of_something_else_is_left_alone(files, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    refused(paint(files, tmp_path), "holds something else")


@pytest.mark.slow
def test_a_run_that_fails_among_its_first_pictures_goes_on(files, painted, tmp_path, monkeypatch):
    save, saved = painting.save_png, []

    def fail(picture, path):
        if len(saved) == 3:
            raise UsageError("The disk is full.")
        saved.append(save(picture, path))

    monkeypatch.setattr(painting, "save_png", fail)
    out = tmp_path / "out"
    failed = paint(files, out, "--seed", "3")
    assert failed.code == 2 and "The disk is full." in failed.err
    monkeypatch.setattr(painting, "save_png", save)
    with pytest.raises(UsageError, match="is unfinished"):
        open_pictures(out)
    assert paint(files, out, "--seed", "3").code == 0
    assert tree(out) == tree(painted)
