"""Stages of DeepFloyd IF written back as diffusers stores them: what was read, and nothing else."""

import itertools
import json
import sys
from pathlib import Path
from unittest import mock

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tiny
from flax.traverse_util import flatten_dict
from scripts import call, refused, tree, verbs

from imagen_jax.config.python_file import find_config, known_configs, read_config_file
from imagen_jax.errors import UsageError
from imagen_jax.weights import deepfloyd_stage
from imagen_jax.weights.deepfloyd_config import parse_unet_config, read_unet_config, unet_values
from imagen_jax.weights.deepfloyd_if import disassembled, open_unet
from imagen_jax.weights.deepfloyd_stage import unet_in_their_form
from imagen_jax.weights.stage_file import load_stage_file, save_stage_file

GOLDEN = Path(__file__).parents[1] / "golden" / "deepfloyd_if"
STAGES = [pytest.param("stage_1", marks=pytest.mark.slow), "stage_2"]
TEXT = GOLDEN / "stage_1"


def stored(directory):
    tensors = {}
    for file in (directory / "unet").glob("*.safetensors"):
        tensors |= safetensors.numpy.load_file(file)
    return tensors


def convert(directory, out, dtype="float32"):
    arguments = [directory, out, "--dtype", dtype, "--text-encoder", TEXT]
    result = call(verbs, "convert", "deepfloyd-if", *arguments)
    assert result.code == 0, result.err


@pytest.fixture(scope="module", params=STAGES)
def stage(request, tmp_path_factory):
    """The golden directory, the stage's file, and the directory that is written of it."""
    place = tmp_path_factory.mktemp(request.param)
    convert(GOLDEN / request.param, place / "stage.safetensors")
    result = call(
        verbs, "export", place / "stage.safetensors", place / "out", "--layout", "diffusers",
        "--dtype", "float32",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    return GOLDEN / request.param, place / "stage.safetensors", place / "out"


@pytest.mark.slow
def test_every_tensor_comes_back_as_it_was_read(stage):
    golden, _, out = stage
    before, after = stored(golden), stored(out)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == np.float32
        np.testing.assert_array_equal(after[name], tensor.astype(np.float32), err_msg=name)


def test_configs_say_what_they_said(stage):
    golden, _, out = stage
    for name in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        before, after = (json.loads((place / name).read_text()) for place in (golden, out))
        assert after["_class_name"] == before["_class_name"]
        for field in before.keys() & after.keys() - {"_diffusers_version", "layers_per_block"}:
            if not field.startswith(("text_encoder", "tokenizer")):
                assert after[field] == before[field], (name, field)
    both = [read_unet_config(place / "unet" / "config.json") for place in (golden, out)]
    assert both[0] == both[1]
    assert (out / "image_noising_scheduler").exists() == (golden.name == "stage_2")


@pytest.mark.slow
def test_what_is_written_is_read_to_the_same_stage(stage, tmp_path):
    _, file, out = stage
    convert(out, tmp_path / "again.safetensors")
    (config, before), (again, after) = map(load_stage_file, (file, tmp_path / "again.safetensors"))
    assert config == again
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.slow
def test_bfloat16_halves_the_file(stage, tmp_path):
    golden, file, _ = stage
    out = tmp_path / "out"
    assert call(verbs, "export", file, out, "--layout", "diffusers").code == 0
    for name, tensor in stored(out).items():
        assert tensor.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(tensor, stored(golden)[name].astype(ml_dtypes.bfloat16))


@pytest.fixture
def theirs(stage):
    """diffusers' pipeline of what was written, and what it gave of the golden stage, by part."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    golden, _, out = stage
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        out,
        text_encoder=transformers.T5EncoderModel.from_pretrained(TEXT / "text_encoder"),
        tokenizer=transformers.T5Tokenizer.from_pretrained(TEXT / "tokenizer"),
    )
    expected = {"network": {}, "pipeline": {}}
    for name, array in safetensors.numpy.load_file(GOLDEN / "expected.safetensors").items():
        owner, part, field = name.split(".")
        if owner == golden.name:
            expected[part][field] = torch.from_numpy(array)
    return pipeline, expected


def test_diffusers_reads_what_is_written_to_the_same_network(theirs):
    pipeline, expected = theirs
    inputs = {"sample", "timestep", "encoder_hidden_states", "class_labels"}
    given = {name: x for name, x in expected["network"].items() if name in inputs}
    output = pipeline.unet(**given).sample.detach()
    np.testing.assert_allclose(output, expected["network"]["output"], rtol=0, atol=1e-5)


def test_diffusers_paints_the_same_pictures_with_what_is_written(theirs, monkeypatch):
    """Ten guided steps with the noise of the golden run in the place of its own."""
    from diffusers.schedulers import scheduling_ddpm

    pipeline, expected = theirs
    golden = expected["pipeline"]
    first = [golden[name] for name in ("initial", "augmentation") if name in golden]
    noises = itertools.chain(first, golden["steps"])
    for module in (scheduling_ddpm, sys.modules[type(pipeline).__module__]):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(noises))
    low_res = golden.get("low_res")
    picture = {} if low_res is None else {"image": low_res.float() / 127.5 - 1}
    pictures = pipeline(
        prompt=["A red apple ", "two green dragons and a slice of pizza"], num_inference_steps=10,
        clean_caption=False, output_type="pt", **picture,
    ).images  # fmt: skip
    np.testing.assert_allclose(pictures, golden["pictures"], rtol=0, atol=1e-4)


def test_the_header_is_one_that_torch_readers_take(stage):
    [file] = (stage[2] / "unet").glob("*.safetensors")
    with safetensors.safe_open(file, framework="numpy") as content:
        assert content.metadata()["format"] == "pt"


def test_all_names_and_shapes_of_a_network_are_written(stage):
    unet, params = open_unet(stage[0] / "unet")
    parts = disassembled(params)
    assert {n: p.shape for n, p in parts.items()} == {
        n: t.shape for n, t in stored(stage[0]).items()
    }
    assert parse_unet_config(unet_values(unet), Path("x")) == unet
    assert len(parts) > len(flatten_dict(params))


@pytest.mark.parametrize("name", sorted(n for n in known_configs() if "deepfloyd_if/" in n))
def test_what_is_fine_tuned_by_a_config_of_the_project_can_be_written(name):
    config = read_config_file(find_config(name))
    unet = unet_in_their_form(config)
    assert (unet.resolution, unet.text_width) == (config.resolution, 4096)


@pytest.mark.parametrize(
    "changes",
    [
        {"diffusion": {"prediction": "v"}},
        {"diffusion": {"augmented": "small"}},
        {"sampling": {"thresholding": "static"}},
    ],
)
def test_a_stage_that_is_not_painted_as_theirs_is_refused(changes):
    config = read_config_file(find_config("deepfloyd_if/ii_m"))
    with pytest.raises(UsageError, match="is not in the form of a stage of DeepFloyd IF"):
        unet_in_their_form(tiny.replace(config, **changes))


def test_a_stage_of_another_form_is_refused_and_nothing_is_written(tmp_path):
    for config in (tiny.stage(), tiny.super_resolution()):
        file = tmp_path / f"{config.resolution}.safetensors"
        save_stage_file(file, config, tiny.random_params(config), "float32")
        result = call(verbs, "export", file, tmp_path / "out", "--layout", "diffusers")
        refused(result, "tiny is not in the form of a stage of DeepFloyd IF")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_holds_something_is_left_alone(stage, tmp_path):
    (tmp_path / "kept").write_text("x")
    before = tree(tmp_path)
    result = call(verbs, "export", stage[1], tmp_path, "--layout", "diffusers")
    refused(result, "is not empty; choose a new directory")
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_what_fails_in_the_middle_leaves_nothing(stage, tmp_path, monkeypatch):
    """So that the same command can be given again."""
    out = tmp_path / "new" / "out"
    monkeypatch.setattr(deepfloyd_stage, "write_tensors", mock.Mock(side_effect=UsageError("no")))
    refused(call(verbs, "export", stage[1], out, "--layout", "diffusers"), "no")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]
