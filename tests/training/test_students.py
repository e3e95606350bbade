"""One command for students of students: what it writes, and going on where it was stopped."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import runs
import tiny
from flax.traverse_util import flatten_dict
from scripts import ROOT, call, sample, train

from imagen_jax.config import json_form
from imagen_jax.config.python_file import read_config_file
from imagen_jax.diffusion import chain
from imagen_jax.errors import UsageError
from imagen_jax.stored.stages import load_weights, open_stage
from imagen_jax.training import students
from imagen_jax.training.loop import run
from imagen_jax.training.students import next_student, student_of, train_students
from imagen_jax.weights.stage_file import save_stage_file

RECIPE = tiny.stage(
    text_encoder={"train": False}, conditions={"guidance": (1.0, 5.0)},
    diffusion={"prediction": "v"}, sampling={"guidance_scale": 1.0},
    training={"num_steps": 2, "sample_every": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def data(place):
    return tiny.folder(place / "data")


@pytest.fixture(scope="module")
def teacher(place):
    path, config = place / "teacher.safetensors", tiny.stage(diffusion={"prediction": "v"})
    save_stage_file(path, config, tiny.random_params(config), "float32")
    return path


@pytest.fixture(scope="module")
def recipe(place):
    """As a user's own config file."""
    path = place / "recipe.py"
    text = json_form.to_json(RECIPE)
    path.write_text(
        "from imagen_jax.config import json_form\n"
        f"def get_config():\n    return json_form.from_json({text!r}, 'recipe')\n"
    )
    assert read_config_file(path) == RECIPE
    return path


@pytest.fixture(scope="module")
def trained(place, data, teacher, recipe):
    """(the command's arguments, where it wrote)."""
    arguments = (recipe, "--teacher", teacher, "--student-steps", "any,4,2", "--data.source")
    arguments = (*arguments, data.source)
    assert call(train, *arguments, "--workdir", place / "run").code == 0
    return arguments, place / "run"


@pytest.mark.slow
def test_every_student_is_a_stage_of_its_own(trained):
    _, workdir = trained
    names = {"any", "4", "2"}
    assert {path.name for path in workdir.iterdir()} == names | {f"{x}.safetensors" for x in names}
    for name, learned, steps in (("any", None, 3), ("4", 4, 4), ("2", 2, 2)):
        config = open_stage(workdir / f"{name}.safetensors").config
        assert (config.distillation.steps, config.sampling.num_steps) == (learned, steps)
        assert config.distillation.teacher == "" and config.sampling.guidance_scale == 5.0
        assert list((workdir / name / "samples").iterdir())
    assert config.sampling.sampler == "ddim"
    first, second = (load_weights(workdir / f"{x}.safetensors").params for x in ("4", "2"))
    np.testing.assert_array_equal(*(x["text_encoder"]["token_embedding"] for x in (first, second)))
    assert np.any(first["unet"]["conv_in"]["kernel"] != second["unet"]["conv_in"]["kernel"])
    weight = second["unet"]["added"]["numbers"]["guidance_scale"]["dense_2"]["kernel"]
    assert np.abs(weight).max() > 1e-4


@pytest.mark.slow
def test_a_student_is_sampled_in_its_own_steps(trained, tmp_path):
    path = trained[1] / "2.safetensors"
    stages = ("--base", path, "--sr256", "none", "--out", tmp_path / "out")
    assert call(sample, "a cat", *stages, "--guidance-scale", 2.5).code == 0
    (said,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["stages"]
    settings = said["sampling"]
    assert (settings["num_steps"], settings["sampler"]) == (2, "ddim")
    assert settings["guidance_scale"] == 2.5
    for flags, says in (
        (("--steps", 3), "num_steps is 3; 'tiny' was distilled to 2 steps, and takes these or a"),
        (
            ("--guidance", 5.5),
            "guidance_scale is 5.5; 'tiny' takes it as an input and learned 1 to",
        ),
    ):
        refused = call(sample, "a cat", *stages, *flags)
        assert refused.code == 2 and says in refused.err and refused.err.count("\n") == 1


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped_to_the_bit(trained, data, teacher, tmp_path):
    """In the middle of the second student; a student that is there is not made again."""
    _, straight = trained
    config = tiny.replace(student_of(RECIPE, str(teacher), None), data={"source": data.source})
    train_students(config, tmp_path / "run", [None])
    made = tmp_path / "run" / "any.safetensors"
    before = made.stat().st_mtime_ns
    second = next_student(config, str(made), 4)
    run(tiny.replace(second, training={"num_steps": 1}), tmp_path / "run" / "4")
    assert runs.steps(tmp_path / "run" / "4") == [1]
    train_students(config, tmp_path / "run", [None, 4])
    assert runs.steps(tmp_path / "run" / "4")[0] == 2
    for name in ("any.safetensors", "4.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (straight / name).read_bytes()
    assert made.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_student_may_begin_with_the_weights_of_a_student_before_it(trained, teacher, tmp_path):
    """An update moves no weight further than the rate, which here is next to nothing."""
    arguments, before = trained
    arguments = ["4" if x == "any,4,2" else x for x in arguments]
    given = ("--training.num-steps", 1, "--optimizer.learning-rate", 1e-7, "--workdir", tmp_path)
    given += ("--init-from", before / "4", "--weights", "raw")
    assert call(train, *arguments, *given).code == 0
    ours, theirs = (
        flatten_dict(load_weights(x, "raw").params["unet"]) for x in (tmp_path, before / "4")
    )
    for name, weights in ours.items():
        np.testing.assert_allclose(weights, theirs[name], rtol=0, atol=2e-7)
    taught = flatten_dict(load_weights(teacher).params["unet"])
    assert max(np.abs(theirs[x] - taught[x]).max() for x in taught) > 1e-5


@pytest.mark.slow
def test_a_row_of_students_ends_after_one_that_was_asked_to_end(
    data, teacher, tmp_path, monkeypatch
):
    """Though it had all of its steps: the signal came while its last checkpoint was written."""
    config = tiny.replace(student_of(RECIPE, str(teacher), None), data={"source": data.source})
    monkeypatch.setattr(students, "run", lambda *given, **told: run(*given, **told) or True)
    train_students(config, tmp_path, [None, 4])
    assert {path.name for path in tmp_path.iterdir()} == {"any", "any.safetensors"}


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_teacher(trained, data, tmp_path):
    config = tiny.stage(diffusion={"prediction": "v"})
    other = tmp_path / "other.safetensors"
    save_stage_file(other, config, tiny.random_params(config, seed=1), "float32")
    student = tiny.replace(student_of(RECIPE, str(other), None), data={"source": data.source})
    source = open_stage(trained[1] / "any").config.text_encoder.source
    student = tiny.replace(student, text_encoder={"source": source}, training={"num_steps": 3})
    with pytest.raises(UsageError, match="holds a student of other weights than those that"):
        run(student, trained[1] / "any")


@pytest.mark.slow
def test_a_student_that_is_there_is_not_taken_for_another_teachers(trained, teacher, tmp_path):
    """Of two teachers with one config: the command would end as if it had trained the students."""
    arguments, place = trained
    assert call(train, *arguments, "--workdir", place).code == 0
    config = tiny.stage(diffusion={"prediction": "v"})
    other = tmp_path / "other.safetensors"
    save_stage_file(other, config, tiny.random_params(config, seed=1), "float32")
    arguments = [other if x == teacher else x for x in arguments]
    refused = call(train, *arguments, "--workdir", place)
    assert refused.code == 2 and "holds a student of other weights than those" in refused.err


def test_a_consistent_student_of_a_chain_takes_its_own_steps(tmp_path, recipe):
    config = tiny.stage(diffusion={"prediction": "v", "schedule": "cosine_chain"})
    path = tmp_path / "chain.safetensors"
    save_stage_file(path, config, tiny.random_params(config), "float32")
    flags = (recipe, "--teacher", path, "--student-steps", "4", "--workdir", tmp_path / "run")
    flags += ("--distillation.method", "consistency", "--distillation.consistency-steps", "100")
    sampling = train.parse(list(map(str, flags))).config.sampling
    assert sampling.timesteps == chain.spaced(config.sampling.spacing, 100)[::25]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--student-steps", "6,4"), "--student-steps is '6,4'; 4 is not half of 6, and a student"),
        (("--student-steps", "4,any"), "it must be whole numbers from 1 with commas between them"),
        (("--student-steps", "0"), "it must be whole numbers from 1 with commas between them"),
        (("--student-steps", "4,,2"), "it must be whole numbers from 1 with commas between them"),
        (
            ("--student-steps", "4", "--diffusion.sigmoid-bias", "-1"),
            "diffusion.sigmoid_bias is -1.0; all steps of a student count alike",
        ),
        (
            ("--student-steps", "4", "--diffusion.min-snr-gamma", "5"),
            "diffusion.min_snr_gamma is 5.0; all steps of a student count alike",
        ),
        (
            ("--student-steps", "any,48", "--distillation.method", "consistency"),
            "consistency_steps is 128; it must be a multiple of the student's steps, 48",
        ),
        (
            ("--student-steps", "16,8", "--distillation.method", "consistency"),
            "16.safetensors takes 16 steps; distillation.method 'consistency' learns from a",
        ),
        (
            ("--student-steps", "4,2", "--init-from", "STAGE"),
            "--student-steps names 2 students; only one student can begin with the weights of a",
        ),
        (("--resolution", "32"), "has resolution 16; this config has 32"),
        (("--conditions.guidance", "6", "9"), "'tiny' takes it as an input and learned 6 to 9"),
    ],
)
def test_flags_of_no_student_are_refused_in_one_sentence(
    flags, says, recipe, teacher, data, tmp_path
):
    flags = [teacher if flag == "STAGE" else flag for flag in flags]
    given = ("--teacher", teacher, "--data.source", data.source, "--workdir", tmp_path / "run")
    refused = call(train, recipe, *given, *flags)
    assert refused.code == 2 and says in refused.err and refused.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_students_config_is_known_before_devices_are(recipe, teacher):
    """Several processes read their flags before they find each other, which must come first."""
    code = (
        "import sys; from imagen_jax.cli import train; from jax._src import xla_bridge\n"
        "flags = train.parse(sys.argv[1:])\n"
        "assert flags.config.distillation.steps == 4 and flags.config.text_encoder.source\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    flags = (recipe, "--teacher", teacher, "--student-steps", "4", "--workdir", "x")
    command = [sys.executable, "-c", code, *map(str, flags)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)


def test_steps_without_a_teacher_are_refused(recipe, tmp_path):
    refused = call(train, recipe, "--student-steps", 4, "--workdir", tmp_path / "run")
    assert refused.code == 2 and "--student-steps 4 belongs to --teacher" in refused.err
    refused = call(train, recipe, "--workdir", tmp_path / "run")
    assert refused.code == 2 and "only a teacher shows a stage that" in refused.err
    refused = call(train, recipe, "--teacher", tmp_path / "x", "--workdir", tmp_path / "run")
    assert refused.code == 2 and f"{tmp_path / 'x'}" in refused.err
    assert refused.err.count("\n") == 1
