"""What a clumsy or hostile user gets: one sentence, exit code 2, and nothing is damaged."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import warnings
from unittest import mock

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny
from scripts import ROOT, call, cut, largest, paint_nothing, refused, sample, train, tree, verbs

from imagen_jax.checkpoints.directory import claim_directory
from imagen_jax.config import python_file
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.pipeline import prompts, shipped
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.weights.stage_file import save_stage_file
from imagen_jax.weights.stored import open_file

NONE_BROKEN = ("--data.max-broken-share", "0")
BASE = tiny.stage()
SR = tiny.super_resolution(low_resolution=16, resolution=32, name="tiny_sr")


@pytest.fixture
def unharmed(tmp_path):
    """A context in which nothing below tmp_path may change."""

    class Unharmed:
        def __enter__(self):
            self.before = tree(tmp_path)

        def __exit__(self, *_):
            assert tree(tmp_path) == self.before

    return Unharmed()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of pictures with captions, as a data source."""
    return tiny.folder(tmp_path_factory.mktemp("data") / "pictures").source


@pytest.fixture
def tiny_train(monkeypatch, pictures):
    """`train.py tiny_64`, where that config is the tests' tiny stage."""
    config = tiny.replace(BASE, data={"source": pictures})
    monkeypatch.setattr(train, "load_config", lambda name: config)
    return functools.partial(call, train, "tiny_64")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, pictures):
    """A training directory of two steps, made by train.py's own main."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    config = tiny.replace(BASE, data={"source": pictures}, training={"num_steps": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load_config", lambda name: config)
        result = call(train, "tiny_64", "--workdir", workdir)
    assert result.code == 0, result.err
    return workdir


@pytest.fixture
def run_copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Files of a base and a super-resolution stage that fit each other."""
    directory = tmp_path_factory.mktemp("exported")
    for name, config in (("base", BASE), ("sr", SR)):
        save_stage_file(
            directory / f"{name}.safetensors", config, tiny.random_params(config), "float32"
        )
    return directory


@pytest.fixture
def stages(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "stages")


# Parsing: nothing is read or made yet.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], ["'nope'", "the configs are", "tiny_64"]),
        (["../train"], ["'../train'", "the configs are"]),
        (["--workdir", "x", "tiny_64"], ["'--workdir'", "the configs are"]),
        (["tiny_64"], ["--workdir"]),
        (["tiny_64", "--workdir"], ["--workdir"]),
        (["tiny_64", "--workdir", "x", "--training.seed", "-1"], ["seed is -1"]),
        (["tiny_64", "--colour", "red"], ["--colour"]),
        (["tiny_64", "--training.batchsize", "8"], ["--training.batchsize"]),
        (["tiny_64", "--training.num-steps", "many"], ["--training.num-steps", "'many'"]),
        (["tiny_64", "--training.num-steps", "1.5"], ["--training.num-steps", "'1.5'"]),
        (["tiny_64", "--training.num-steps", "-5"], ["num_steps is -5", "must be positive"]),
        (["tiny_64", "--optimizer.learning-rate", "fast"], ["--optimizer.learning-rate", "'fast'"]),
        (["tiny_64", "--optimizer.learning-rate", "nan"], ["learning_rate is nan"]),
        (["tiny_64", "--text-encoder.train", "maybe"], ["maybe"]),
        (["tiny_64", "--low-resolution", "five"], ["--low-resolution", "'five'"]),
        (["tiny_64", "--unet.channel-mult", "1", "x"], ["--unet.channel-mult", "'x'"]),
        (["tiny_64", "--unet.channel-mult", "1", "2", "3"], ["3 channel multipliers and 2"]),
        (["tiny_64", "--unet.kind", "efficient_unet"], ["--unet.kind", "'efficient_unet'"]),
        (["tiny_64", "--diffusion.prediction", "noise"], ["'noise'", "'eps'", "'x0'", "'v'"]),
        (["tiny_64", "--sampling.sampler", "euler"], ["'euler'", "'dpm++'"]),
        (["tiny_64", "--resolution", "63"], ["resolution is 63", "a multiple of 16"]),
        (["tiny_64", "--data.crop", "24"], ["data.crop is 24", "a multiple of 16"]),
        (["tiny_64", "--data.sizes", "64", "60"], ["data.sizes has 64x60", "multiples of 16"]),
        (["tiny_64", "--data.sizes", "64", "64", "32"], ["--data.sizes", "too few or too many"]),
        (["tiny_64", "--data.sizes", "64", "64", "0", "16"], ["data.sizes has 0x16"]),
        (["tiny_64", "--low-resolution", "5"], ["low_resolution is 5", "must divide", "64"]),
        (["tiny_64", "--training.batch-size", "33", "--training.accumulation-steps", "2"],
         ["batch_size is 33", "divisible by", "2"]),
        (["tiny_64", "stray"], ["stray"]),
        (["tiny_64", "--profile", "5"], ["--profile is '5'", "START:STOP"]),
        (["tiny_64", "--profile", "5:5"], ["--profile is '5:5'", "0 < START < STOP"]),
        (["tiny_64", "--profile", "0:3"], ["--profile is '0:3'"]),
        (["tiny_64", "--profile", "-1:3"], ["--profile"]),
        (["tiny_64", "--weights", "raw"], ["--weights raw", "--init-from"]),
        (["tiny_64", "--weights", "best"], ["--weights", "best"]),
    ],
)  # fmt: skip
def test_train_refuses_bad_flags(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with_workdir = (
        [] if "--workdir" in arguments or arguments == ["tiny_64"] else ["--workdir", "w"]
    )
    refused(call(train, *arguments, *with_workdir), *says)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ["no prompt"]),
        ([""], ["A prompt is ''", "must not be empty"]),
        (["a cat", " \t\n"], [r"' \t\n'", "must not be empty"]),
        (["a", "--split-height", "0"], ["--split-height is 0", "at least 1"]),
        (["a", "--split-height", "3"], ["--split-height is 3", "must divide the 8 devices"]),
        (["a", "--seed", "-1"], ["--seed is -1", "between 0 and 4294967295"]),
        (["a", "--seed", str(2**32)], ["--seed is 4294967296"]),
        (["a", "--seed", "1.5"], ["--seed", "'1.5'"]),
        (["a", "--num-images", "0"], ["--num-images is 0", "at least 1"]),
        (["a", "--num-images", "1048577"], ["--num-images is 1048577", "at most 1,048,576"]),
        (["a", "--batch-size", "-4"], ["--batch-size is -4", "at least 1"]),
        (["a", "--batch-size", "four"], ["--batch-size", "'four'"]),
        (["a", "--colour", "red"], ["--colour"]),
        (["a", "--out"], ["--out"]),
        (["a", "--base", "none"], ["--base is 'none'", "starts with a base"]),
        (["a", "--base", "none", "--sr256", "x"], ["--base is 'none'"]),
        (["a", "--sr256", "none", "--sr1024", "x"], ["--sr1024 is 'x'", "--sr256 is 'none'"]),
        (["a", "--base", "y", "--sr1024", "x"], ["--sr1024 is 'x'", "--sr256 is missing"]),
        (["a", "--what", "embedding"], ["--what embedding belongs to --compile-only"]),
    ],
)
def test_sample_refuses_bad_flags(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call(sample, *arguments), *says)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ["export", "plot"]),
        (["draw"], ["'draw'", "sample, train, export"]),
        (["paint", "drawbench:x", "out"], ["'drawbench:x'", "prompts, table, geneval, coco"]),
        (["paint", "table:x.csv", "out"], ["x.csv cannot be read"]),
        (["expor", "w"], ["'expor'", "perhaps you meant export"]),
        (["export", "w"], ["OUT.safetensors is missing"]),
        (["export"], ["WORKDIR", "OUT.safetensors"]),
        (["export", "nowhere", "x.safetensors"], ["nowhere", "neither a training directory nor"]),
        (["export", "w", "x.safetensors", "--dtype", "float16"], ["'float16'", "'bfloat16'"]),
        (["export", "w", "x.png"], ["x.png", ".safetensors"]),
        (["convert", "t5", "nowhere", "x.safetensors"], ["nowhere/config.json cannot be read"]),
        (["convert", "t5", "nowhere", "x.bin"], ["x.bin", ".safetensors"]),
        (["convert", "t6", "nowhere", "x.safetensors"], ["'t6'"]),
        (["convert", "inception", "nowhere.pth", "x.safetensors"], ["nowhere.pth"]),
        (["plot"], ["at least one training directory"]),
        (["stats", "nowhere", "out", "--weights", "w"], ["nowhere is no directory of pictures"]),
        (["stats", ".", "out", "--weights", "w"], [". holds no picture"]),
        (["stats", ".", "out"], ["--weights"]),
        (["stats", ".", "out", "--weights", "w", "--resizer", "cubic"], ["'cubic'", "'bicubic'"]),
        (
            ["evaluate", ".", "--out", "o", "--weights", "w", "--reference", "r"],
            [". holds no pict"],
        ),
        (["plot", "w", "--out", "."], [". cannot be written", ".png"]),
        (["plot", "w", "--out", "/"], ["/ cannot be written", ".png"]),
        (["plot", "w", "--out", "configs/tiny_64.py"], ["tiny_64.py", ".png"]),
    ],
)
def test_verbs_refuse_bad_flags(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call(verbs, *arguments), *says)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("script", [["train.py", "nope"], ["sample.py", "a", "--seed", "x"]])
def test_a_real_process_ends_with_code_2_and_one_line(script):
    result = subprocess.run(
        [sys.executable, str(ROOT / script[0]), *script[1:]],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("error: ") and script[-1] in result.stderr


def test_help_is_no_mistake():
    for script, name in (
        (train, ["tiny_64"]),
        (sample, []),
        (verbs, ["export"]),
        (verbs, ["convert"]),
        (verbs, ["stats"]),
        (verbs, ["evaluate"]),
    ):
        result = call(script, *name, "--help")
        assert (result.code, result.err) == (0, "") and len(result.out) > 200


def test_a_config_in_a_directory_is_named_with_it():
    flags = train.parse(["deepfloyd_if/i_m", "--workdir", "w", "--training.batch-size", "8"])
    assert (flags.config.unet.embed_dim, flags.config.training.batch_size) == (192, 8)
    assert "  deepfloyd_if/i_m" in call(train, "--help").out


def test_a_broken_config_harms_no_other(tmp_path, monkeypatch):
    for name in ("tiny_64", "emoji_base_64"):
        shutil.copy(ROOT / "configs" / f"{name}.py", tmp_path)
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    monkeypatch.setattr(python_file, "CONFIGS", tmp_path)
    result = call(train, "--help")
    assert (result.code, result.err) == (0, "") and "  broken" in result.out
    assert "--workdir" in call(train, "tiny_64", "--help").out
    refused(call(train, "broken", "--workdir", tmp_path / "w"), "broken.py", "SyntaxError")


def test_ctrl_c_ends_without_a_traceback(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "run", stop)
    result = call(sample, "a red apple")
    assert (result.code, result.err) == (130, "stopped\n")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "a/b.txt"), "a/b.txt: Permission denied."),
        (ConnectionError("No route to example.org.\nTry again."), "No route to example.org."),
        (TimeoutError(), "TimeoutError()."),
    ],
)
def test_what_the_system_refuses_is_one_line(error, says, monkeypatch):
    monkeypatch.setattr(sample, "run", mock.Mock(side_effect=error))
    result = call(sample, "a red apple")
    assert (result.code, result.err) == (2, f"error: {says}\n")


def test_names_that_are_too_long_are_refused(tiny_train, tmp_path, unharmed):
    long = tmp_path / ("x" * 300)
    with unharmed:
        refused(call(sample, "a", "--out", long), str(long), "File name too long")
        refused(call(sample, "a", "--base", long), str(long), "File name too long")
        for flag in ("--workdir", "--init-from", "--text-encoder.source"):
            arguments = {"--workdir": tmp_path / "w", flag: long}
            off = ["--text-encoder.no-train"] if "source" in flag else []
            result = tiny_train(*off, *(part for pair in arguments.items() for part in pair))
            refused(result, str(long), "File name too long")


def test_warnings_are_one_line_and_are_not_repeated(capsys):
    with exit_on_usage_error():
        for text in ("first", "second", "first"):
            warnings.warn(text, stacklevel=1)
            with warnings.catch_warnings():  # Makes Python forget what it has shown.
                pass
    assert capsys.readouterr().err == "warning: first\nwarning: second\n"


# Training directories.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--name", "other"], ["name = 'tiny'", "'other'"]),
        (["--optimizer.learning-rate", "0.5"], ["optimizer.learning_rate = 0.001", "0.5"]),
        (["--unet.embed-dim", "16"], ["unet.embed_dim = 8", "16"]),
        (["--training.batch-size", "16"], ["training.batch_size = 8", "16"]),
        (["--resolution", "32"], ["resolution = 16", "32"]),
    ],
)
def test_a_workdir_of_another_config_is_refused(changes, says, tiny_train, run_copy, unharmed):
    with unharmed:
        refused(tiny_train("--workdir", run_copy, *changes), str(run_copy), *says)


def test_a_workdir_of_another_stage_is_refused(tiny_train, tmp_path, unharmed):
    claim_directory(tmp_path / "run", SR)
    with unharmed:
        refused(tiny_train("--workdir", tmp_path / "run"), "name = 'tiny_sr'", "'tiny'")


def test_a_workdir_with_other_files_is_refused(tiny_train, tmp_path, unharmed):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"precious")
    with unharmed:
        refused(tiny_train("--workdir", tmp_path / "photos"), "photos", "not empty")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_workdir_that_is_a_file_is_refused(below, tiny_train, tmp_path, unharmed):
    (tmp_path / "file").write_text("precious")
    with unharmed:
        says = f"{tmp_path / 'file'} is a file; it must be a directory"
        refused(tiny_train("--workdir", tmp_path / "file" / below), says)


@pytest.mark.parametrize("text", ["", "{", '{"name": 1}', "\x00\xff"])
def test_a_damaged_config_is_refused(text, tiny_train, run_copy, unharmed):
    (run_copy / "config.json").write_text(text, encoding="latin-1")
    with unharmed:
        refused(tiny_train("--workdir", run_copy), "config.json")
        refused(call(sample, "a", "--base", run_copy, "--sr256", "none"), "config.json")


DAMAGES = {
    "cut short": lambda item: cut(largest(item)),
    "file missing": lambda item: largest(item).unlink(),
    "item missing": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("item", ["params", "opt_state", "about"])
def test_training_stops_where_no_checkpoint_is_whole(item, damage, tiny_train, run_copy, unharmed):
    damage(run_copy / "checkpoints" / "2" / item)
    with unharmed:
        result = tiny_train("--workdir", run_copy, "--training.num-steps", "2")
        refused(result, "checkpoints/2 is damaged or incomplete", "there is no other")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_sampling_and_export_stop_at_a_damaged_checkpoint(damage, run_copy, tmp_path, unharmed):
    damage(run_copy / "checkpoints" / "2" / "ema")
    with unharmed:
        out = ["--out", tmp_path / "out"]
        refused(call(sample, "a", "--base", run_copy, "--sr256", "none", *out), "checkpoints/2")
        refused(call(verbs, "export", run_copy, tmp_path / "x.safetensors"), "checkpoints/2")


def test_a_run_without_checkpoints_is_refused(tmp_path, unharmed):
    claim_directory(tmp_path / "run", BASE)
    with unharmed:
        refused(call(sample, "a", "--base", tmp_path / "run"), "neither a training directory nor")
    (tmp_path / "run" / "checkpoints").mkdir()
    with unharmed:
        refused(call(sample, "a", "--base", tmp_path / "run"), "holds no checkpoint yet")


@pytest.mark.slow
def test_export_and_sampling_leave_the_run_as_it_is_and_replace_whole_files(run_copy, tmp_path):
    before = tree(run_copy)
    file = tmp_path / "files" / "x.safetensors"
    sizes = []
    for dtype in ("bfloat16", "float32"):
        assert call(verbs, "export", run_copy, file, "--dtype", dtype).code == 0
        sizes.append(file.stat().st_size)
    assert sizes[1] > 1.8 * sizes[0]
    assert list(tree(file.parent)) == ["x.safetensors"]
    arguments = ["--base", run_copy, "--sr256", "none", "--steps", 1, "--out", tmp_path / "out"]
    assert call(sample, "a red apple", *arguments).code == 0
    assert tree(run_copy) == before


def test_an_export_that_cannot_be_written_is_refused(run_copy, tmp_path, unharmed):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "directory.safetensors").mkdir()
    with unharmed:
        for out in (tmp_path / "file" / "x.safetensors", tmp_path / "directory.safetensors"):
            refused(call(verbs, "export", run_copy, out), str(out))


@pytest.mark.parametrize(
    ("name", "says"), [("metrics.jsonl", "Is a directory"), ("tensorboard", "Not a directory")]
)
def test_a_log_that_cannot_be_written_is_refused(name, says, tiny_train, run_copy, monkeypatch):
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    path = run_copy / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("precious")
    else:
        path.unlink()
        path.mkdir()
    result = tiny_train("--workdir", run_copy, "--training.num-steps", "3")
    refused(result, str(path), says)
    assert not [call for call in at_exit if "tensorboardX" in call.__module__]  # Nothing is open.


GOLDEN_T5 = ROOT / "tests" / "golden" / "t5_v1_0"


def test_a_conversion_says_how_a_stage_reads_it(tmp_path):
    file, directory = tmp_path / "t5.safetensors", shutil.copytree(GOLDEN_T5, tmp_path / "t5")
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    result = call(verbs, "convert", "t5", directory, file)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[2] == (
        f"The weights are under the licence of {directory}: README.md says apache-2.0."
    )
    flags = result.out.splitlines()[1].split()
    assert flags[:2] == ["--text-encoder.source", str(file)]
    sizes = dict(zip(flags[2::2], flags[3::2], strict=True))
    assert sizes["--text-encoder.t5.feed-forward"] == "relu"
    assert sizes["--text-encoder.t5.vocab-size"] == "96"


def test_a_conversion_that_cannot_be_written_is_refused(tmp_path, unharmed):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "directory.safetensors").mkdir()
    with unharmed:
        for out in (tmp_path / "file" / "x.safetensors", tmp_path / "directory.safetensors"):
            refused(call(verbs, "convert", "t5", GOLDEN_T5, out), str(out))


def test_a_conversion_does_not_replace_what_it_reads(tmp_path, unharmed):
    shutil.copytree(GOLDEN_T5, tmp_path / "t5")
    with unharmed:
        out = tmp_path / "t5" / "model.safetensors"
        refused(call(verbs, "convert", "t5", tmp_path / "t5", out), str(out), "another place")


def test_a_conversion_that_fails_on_the_way_leaves_nothing(tmp_path, monkeypatch, unharmed):
    def fail(*_):
        raise UsageError("the disk is gone")

    monkeypatch.setattr("imagen_jax.weights.stored._read_safetensors", fail)
    with unharmed:
        refused(call(verbs, "convert", "t5", GOLDEN_T5, tmp_path / "x.safetensors"), "is gone")


# What training reads.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--training.batch-size", "12"], ["12 pictures", "8 devices"]),
        (["--training.accumulation-steps", "2"], ["4 pictures", "8 devices"]),
        (["--mesh.fsdp", "3"], ["mesh.fsdp is 3", "8 devices"]),
        (["--text-encoder.t5.vocab-size", "100"], ["vocab_size is 100", "'captions'", "at least"]),
        (["--text-encoder.tokenizer", "nowhere"], ["'nowhere'", "captions"]),
        (["--text-encoder.no-train"], ["text_encoder.source is empty"]),
        (["--text-encoder.no-train", "--text-encoder.source", "nowhere"],
         ["text_encoder.source is 'nowhere'"]),
        (["--text-encoder.source", "x"], ["source is 'x'", "train is on"]),
        (["--init-from", "nowhere"], ["nowhere", "neither a training directory nor"]),
        (["--data.source", "folder:nowhere"], ["'folder:nowhere'", "no such directory"]),
        (["--data.source", "no_such_data_set"], ["'no_such_data_set'"]),
        (["--data.source", "captioned_emoji/core_65"], ["'captioned_emoji/core_65'"]),
        (["--data.crop", "32"], ["data.crop is 32", "16"]),
        (["--optimizer.freeze", "unet.nothing.*"], ["'unet.nothing.*'", "fits no parameter"]),
        (["--optimizer.freeze", "*"], ["optimizer.freeze", "nothing to train"]),
        (["--allow-change", "colour"], ["--allow-change colour", "no such field"]),
        (["--allow-change", "unet.embed-dim"], ["--allow-change unet.embed_dim", "stay as they"]),
    ],
)  # fmt: skip
def test_train_refuses_what_cannot_be_used(changes, says, tiny_train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tiny_train("--workdir", "w", *changes), *says)
    assert tree(tmp_path) == {}


def frozen(source):
    return ["--text-encoder.no-train", "--text-encoder.source", source]


def test_a_source_that_holds_no_encoder_is_refused(tiny_train, stages, tmp_path, unharmed):
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture").write_bytes(b"\x89PNG\r\n")
    cut(stages / "sr.safetensors")
    with unharmed:
        for source in (tmp_path / "empty", tmp_path / "picture", stages / "sr.safetensors"):
            refused(tiny_train("--workdir", tmp_path / "w", *frozen(source)), str(source))


def test_an_encoder_of_other_sizes_is_refused(tiny_train, stages, tmp_path, unharmed):
    with unharmed:
        arguments = [*frozen(stages / "base.safetensors"), "--text-encoder.t5.d-model", "32"]
        result = tiny_train("--workdir", tmp_path / "w", *arguments)
        refused(result, "base.safetensors", "d_model=16", "d_model=32")


def test_weights_of_another_network_are_refused(tiny_train, stages, tmp_path, unharmed):
    with unharmed:
        arguments = ["--init-from", stages / "base.safetensors", "--unet.embed-dim", "16"]
        refused(
            tiny_train("--workdir", tmp_path / "w", *arguments), "--init-from", "base.safetensors"
        )


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("03.png", b"no picture", ["03.png", "undecodable"]),
        ("03.png", None, ["03.png", "truncated"]),
        ("03.txt", b"", ["03.png", "no caption"]),
        ("03.txt", b" \n\t\n", ["03.png", "no caption"]),
        ("03.txt", b"\xff\xfe\x00", ["03.png", "not UTF-8"]),
    ],
    ids=["no picture", "cut short", "empty caption", "blank caption", "not text"],
)
def test_a_bad_record_stops_training_by_name(file, content, says, tiny_train, tmp_path):
    """Where none may be. It is found once its turn comes, so the new directory is there."""
    source = tiny.folder(tmp_path / "data").source
    path = tmp_path / "data" / file
    path.write_bytes(content) if content is not None else cut(path)
    before = tree(tmp_path / "data")
    result = tiny_train("--workdir", tmp_path / "w", "--data.source", source, *NONE_BROKEN)
    assert (result.code, result.out) == (2, "") and "Traceback" not in result.err
    assert all(text in result.err for text in says), result.err
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ") and "data.max_broken_share is 0" in last, result.err
    assert tree(tmp_path / "data") == before


def test_captions_and_pictures_that_cannot_be_read_are_named(tiny_train, tmp_path, monkeypatch):
    def open_file(path, *arguments, open_file=os.open):
        if str(path).endswith("03.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *arguments)

    source = tiny.folder(tmp_path / "data").source
    monkeypatch.setattr(os, "open", open_file)
    result = tiny_train("--workdir", tmp_path / "w", "--data.source", source, *NONE_BROKEN)
    assert (result.code, result.out) == (2, "") and "Traceback" not in result.err
    assert "03.png: file unreadable (Permission denied)" in result.err


# Stages of a cascade.


def broken_file(path, kind, whole):
    if kind == "cut short":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif kind == "directory":
        path.mkdir()
    elif kind == "other safetensors":
        safetensors.numpy.save_file({"x": np.zeros(2, np.float32)}, path)


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        ("base", "missing"), ("base", "cut short"), ("base", "empty"), ("base", "picture"),
        ("base", "directory"), ("base", "other safetensors"), ("sr256", "cut short"),
        ("sr1024", "missing"),
    ],
)  # fmt: skip
def test_every_stage_flag_refuses_what_is_no_stage(flag, kind, stages, tmp_path, unharmed):
    bad = tmp_path / "bad.safetensors"
    broken_file(bad, kind, (stages / "base.safetensors").read_bytes())
    files = {"base": "base", "sr256": "sr", "sr1024": "sr"}
    flags = {f"--{name}": stages / f"{file}.safetensors" for name, file in files.items()}
    flags |= {f"--{flag}": bad, "--out": tmp_path / "out"}
    with unharmed:
        arguments = [part for pair in flags.items() for part in pair]
        refused(call(sample, "a", *arguments), "bad.safetensors")


def test_a_header_without_a_config_is_refused(stages, tmp_path, unharmed):
    path = stages / "base.safetensors"
    tensors, header = safetensors.numpy.load_file(path), open_file(path)[0]
    safetensors.numpy.save_file(tensors, path, metadata={"format": header["format"]})
    with unharmed:
        refused(call(sample, "a", "--base", path, "--sr256", "none"), "(header): the config: ")


def test_a_missing_shipped_cascade_is_named(tmp_path, monkeypatch, unharmed):
    monkeypatch.setattr(shipped, "PRETRAINED", tmp_path / "pretrained")
    with unharmed:
        refused(call(sample, "a", "--out", tmp_path / "out"), "pretrained/student.safetensors")


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (["sr", "none", "none"], ["tiny_sr", "16-pixel pictures", "it comes first"]),
        (["sr", "base", "none"], ["tiny_sr", "16-pixel pictures", "it comes first"]),
        (["base", "base", "none"], ["(tiny)", "no picture", "paints 16 pixels"]),
        (["base", "sr", "sr"], ["tiny_sr", "16-pixel pictures", "paints 32 pixels"]),
    ],
)
def test_stages_in_the_wrong_order_are_refused(order, says, stages, tmp_path, unharmed):
    names = [name if name == "none" else stages / f"{name}.safetensors" for name in order]
    flags = [
        part
        for flag, name in zip(shipped.STAGES, names, strict=True)
        for part in (f"--{flag}", name)
    ]
    with unharmed:
        refused(call(sample, "a", *flags, "--out", tmp_path / "out"), *says)


# Settings and prompts of a cascade that could paint.


@pytest.fixture
def tiny_sample(stages, tmp_path):
    """`sample.py` with a base and one more stage."""
    flags = ["--base", stages / "base.safetensors", "--sr256", stages / "sr.safetensors"]
    return functools.partial(call, sample, *flags, "--sr1024", "none", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "-5"], ["--steps: '-5'", "whole number of at least 1"]),
        (["--steps", "0"], ["--steps: '0'", "whole number of at least 1"]),
        (["--steps", "2.5"], ["--steps: '2.5'", "whole number of at least 1"]),
        (["--steps", "few"], ["--steps is 'few'", "a whole number", "smart50"]),
        (["--steps", "3,,3"], ["--steps: '3,,3'"]),
        (["--steps", "3,2,1"], ["--steps has 3 values", "2 stages"]),
        (["--sampler", "euler"], ["--sampler: 'euler'", "ancestral, ddim, dpm++ or heun"]),
        (["--sampler", "ddim,euler"], ["--sampler: 'ddim,euler'"]),
        (["--thresholding", "soft"], ["--thresholding: 'soft'", "none, static or dynamic"]),
        (["--guidance", "nan"], ["--guidance: 'nan'", "finite"]),
        (["--guidance", "1,inf"], ["--guidance: '1,inf'", "finite"]),
        (["--guidance", "strong"], ["--guidance: 'strong'", "a finite number"]),
        (["--aug-level", "2"], ["--aug-level: '2'", "between 0 and 1"]),
        (["--aug-level", "nan"], ["--aug-level: 'nan'"]),
        (["--weights", "best"], ["--weights: 'best'", "ema or raw"]),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_settings_that_mean_nothing_are_refused(arguments, says, tiny_sample, unharmed):
    with unharmed:
        refused(tiny_sample("a red apple", *arguments), *says)


@pytest.mark.parametrize(("prompt", "says"), [("\u200b", "caption"), ("\udcff apple", "not UTF-8")])
def test_prompts_without_any_text_are_refused(prompt, says, tiny_sample, unharmed):
    with unharmed:
        refused(tiny_sample("a red apple", prompt), says)


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_out_that_is_a_file_or_below_one_is_refused(below, tiny_sample, tmp_path, unharmed):
    (tmp_path / "file").write_text("precious")
    with unharmed:
        result = tiny_sample("a", "--out", tmp_path / "file" / below)
        refused(result, "--out is", "is a file", "must be a directory")


def test_out_that_cannot_be_written_is_refused(tiny_sample, tmp_path, monkeypatch, unharmed):
    """Permissions are not asked of the superuser, who may well run the tests."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with unharmed:
        refused(tiny_sample("a"), f"--out is {tmp_path / 'out'}", "cannot be written to")


def test_a_long_prompt_is_cut_with_one_readable_warning(tiny_sample, tmp_path, monkeypatch):
    paint_nothing(monkeypatch)
    embed_nothing = Cascade.embed

    def tokenize_again(cascade, texts, **settings):
        prompts.check_prompts([stage.stored for stage in cascade.stages], texts)
        return embed_nothing(cascade, texts, **settings)

    monkeypatch.setattr(Cascade, "embed", tokenize_again)
    prompt = "a red apple beside a green pear\nand a blue plum"
    result = tiny_sample(prompt)
    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if "dropped" in line]
    assert len(lines) == 1 and lines[0].startswith("warning: The caption 'a red apple")
    assert f"room for {tiny.LENGTH - 1}" in lines[0] and "blue plum'" in lines[0]
    assert "UserWarning" not in result.err and ".py" not in result.err
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_these_tests_run_on_several_devices():
    assert len(jax.devices()) == 8
