"""The script that runs the studies that need training: what it asks of `train` and `sweep`."""

import argparse
import dataclasses

import pytest
from scripts import ROOT, tool, train

from imagen_jax.config import DiffusionConfig
from imagen_jax.evaluation.axes import points_of, read_axes


@pytest.fixture(scope="module")
def studies():
    return tool("studies")


def asked(studies, study: str, out):
    """The config of each network by its name, and the points of the sweep."""
    flags = argparse.Namespace(study=study, out=out, steps=7, limit=3)
    *before, sweep = studies.STUDIES[study](flags)
    trained = [train.parse(command[1:]) for command in before if command[0] == "train.py"]
    end = sweep.index("--limit")
    axes = read_axes(sweep[sweep.index("--over") + 1 : end])
    runs = {flags.workdir.rpartition("/")[2]: flags.config for flags in trained}
    assert {*axes[1].values} == {str(out / "runs" / name) for name in runs}
    assert sweep[end:][:2] == ["--limit", "3"]
    return runs, points_of(axes)


def test_sizes_differ_in_nothing_but_widths(studies, tmp_path):
    runs, points = asked(studies, "sizes", tmp_path)
    assert len(runs) == 9 and len(points) == 27
    widths = {(run.unet.embed_dim, run.text_encoder.t5.d_model) for run in runs.values()}
    assert widths == {(u, t) for u in studies.UNETS for t in studies.TEXTS}
    assert len({repr((run.training, run.optimizer, run.data)) for run in runs.values()}) == 1
    assert {(run.training.num_steps, run.resolution) for run in runs.values()} == {(7, 32)}


def test_encoders_are_read_to_equal_widths_and_depths(studies, tmp_path):
    runs, points = asked(studies, "encoders", tmp_path)
    assert len(points) == 9
    along, frozen, clip = (run.text_encoder for run in runs.values())
    assert along.train and not frozen.train and frozen.t5 == along.t5
    assert clip.clip.width == along.t5.d_model and clip.clip_layer == "penultimate"
    assert clip.clip.num_layers - 1 == along.t5.num_layers
    assert clip.source == clip.tokenizer == str(tmp_path / "clip")
    assert len({dataclasses.astuple(run.unet) for run in runs.values()}) == 1


def test_a_clip_that_is_there_is_not_trained_again(studies, tmp_path):
    flags = argparse.Namespace(study="encoders", out=tmp_path, steps=7, limit=3)
    first = next(studies.encoders(flags))
    assert first == ["tools/train_clip.py", str(tmp_path / "clip"), "--steps", "7"]
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "model.safetensors").touch()
    assert next(studies.encoders(flags))[0] == "train.py"


def test_stages_with_and_without_noise_differ_in_nothing_else(studies, tmp_path):
    runs, points = asked(studies, "augmentation", tmp_path)
    assert len(points) == 6
    augmented, clean = runs.values()
    assert (augmented.diffusion.max_aug_level, clean.diffusion.max_aug_level) == (0.5, 0)
    alike = (dataclasses.replace(run, diffusion=DiffusionConfig()) for run in runs.values())
    assert len({*map(repr, alike)}) == 1


def test_objectives_differ_in_nothing_else(studies, tmp_path):
    runs, points = asked(studies, "objectives", tmp_path)
    assert len(points) == 18
    assert len({run.diffusion for run in runs.values()}) == 6
    assert {run.diffusion.prediction for run in runs.values()} == {"eps", "v", "x0"}
    alike = (dataclasses.replace(run, diffusion=DiffusionConfig()) for run in runs.values())
    assert len({*map(repr, alike)}) == 1


def test_averages_are_of_one_run_at_a_constant_rate(studies, tmp_path):
    flags = argparse.Namespace(study="averages", out=tmp_path, steps=7, limit=3)
    first, *exports, sweep = studies.averages(flags)
    run = train.parse(first[1:]).config
    assert run.optimizer.power_ema and run.optimizer.decay_steps is None
    assert [export[-1] for export in exports] == [*studies.LENGTHS]
    # From the shortest average that is kept to the longest that `export` makes.
    assert all(min(run.optimizer.power_ema) <= float(x) <= 0.25 for x in studies.LENGTHS)
    axis = next(word for word in sweep if word.startswith("base="))
    assert axis.removeprefix("base=").split(",") == [export[4] for export in exports]


def test_students_halve_and_are_measured_beside_the_base(studies, tmp_path, monkeypatch):
    monkeypatch.chdir(studies.ROOT)
    flags = argparse.Namespace(study="distillation", out=tmp_path, steps=7, limit=3)
    guided, halved, consistent, *measured, sheet = studies.distillation(flags)
    any_student = train.parse(guided[1:])
    said = lambda command, flag: command[command.index(flag) + 1]  # noqa: E731
    assert said(guided, "--student-steps") == "any"
    assert any_student.config.training.num_steps == any_student.config.optimizer.decay_steps == 7
    assert any_student.config.conditions.guidance == (1.0, 5.0)
    for command in (halved, consistent):
        assert said(command, "--teacher") == any_student.workdir
    students = said(halved, "--student-steps").split(",")
    assert students == ["8", "4", "2", "1"]
    assert said(consistent, "--distillation.method") == "consistency"
    files = [f"{said(halved, '--workdir')}/{count}.safetensors" for count in students]
    # Of one student alone the training directory is the stage.
    files += ["imagen_jax/pretrained/student.safetensors", said(consistent, "--workdir")]
    assert (ROOT / files[-2]).is_file()
    assert [command[-2:] for command in measured] == [
        *(["--steps", count] for count in ("30", "8", "4", "2")),
        *(["--base", base] for base in (any_student.workdir, *files)),
    ]
    assert len({said(command, "--out") for command in measured}) == len(measured)
    assert sheet[-7:] == [any_student.workdir, *files]
