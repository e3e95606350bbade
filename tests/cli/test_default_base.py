"""Which base paints where none is named."""

import pytest
from scripts import call, refused, sample

from imagen_jax.cli.stage_flags import stage_paths
from imagen_jax.pipeline.shipped import STAGES, STUDENT, shipped_stage

PROMPT = "a red apple"


def paths(*arguments):
    return stage_paths(sample.parse([PROMPT, *arguments]).stages)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a cat face", "--num-images", "4", "--seed", "3", "--batch-size", "2"],
        ["--aspect", "3:2", "--preview", "--out", "elsewhere", "--sr1024", "none"],
        ["--base", "shipped-student"],
        ["--base", "shipped-student", "--steps", "1,8,8", "--sr256", "shipped"],
    ],
    ids=str,
)
def test_prompts_alone_are_painted_by_the_student(arguments):
    assert paths(*arguments)[:2] == [shipped_stage(STUDENT), shipped_stage("sr256")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "8"],
        ["--guidance", "3,1,1"],
        ["--sampler", "ddim"],
        ["--aug-level", "0.1"],
        ["--negative-prompt", "a green leaf"],
        ["--positive-prompt", "a robot"],
        ["--interpolate", "4", "--to-seed", "2"],
        ["--init-noise", "noise.npy"],
        ["--image", "apple.png"],
        ["--base-adapters", "zibo.safetensors"],
        ["--base", "shipped"],
    ],
    ids=str,
)
def test_what_a_student_did_not_learn_is_painted_by_the_base(arguments):
    assert paths(*arguments) == [shipped_stage(name) for name in STAGES]


def test_a_base_of_ones_own_stays(tmp_path):
    (tmp_path / "own.safetensors").touch()
    assert paths("--base", str(tmp_path / "own.safetensors")) == [tmp_path / "own.safetensors"]


def test_a_base_without_a_name_is_refused(tmp_path):
    result = call(sample, PROMPT, "--base", "", "--out", tmp_path / "out")
    refused(result, "--base is ''; it must name a file or a directory")
    assert not (tmp_path / "out").exists()
