"""DeepFloyd IF from diffusers' directories to pictures: conversion, sampling, and parity."""

import dataclasses
import json
import lzma
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from PIL import Image
from scripts import ROOT, call, cut, largest, refused, sample, tree, verbs

from imagen_jax.conditions import Conditions
from imagen_jax.config import MeshConfig, SamplingConfig
from imagen_jax.config.network import T5_PRESETS
from imagen_jax.diffusion import process, samplers
from imagen_jax.errors import UsageError
from imagen_jax.networks import build_networks
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.arguments import changed_settings
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.prompts import TextEncoders
from imagen_jax.pipeline.sampling import Run
from imagen_jax.stored.stages import load_config, load_weights, open_stage
from imagen_jax.weights.deepfloyd_config import read_unet_config
from imagen_jax.weights.deepfloyd_stage import convert_deepfloyd_if, stage_config
from imagen_jax.weights.hugging_face import licence

GOLDEN = Path(__file__).parents[1] / "golden" / "deepfloyd_if"
PROMPTS = ["A red apple ", "two green dragons and a slice of pizza"]
"""Of tests/golden/make_deepfloyd_golden.py."""


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Both stages as exported files; stage II reads stage I's text encoder."""
    directory = tmp_path_factory.mktemp("deepfloyd_if")
    for name in ("stage_1", "stage_2"):
        out = directory / f"{name}.safetensors"
        convert_deepfloyd_if(GOLDEN / name, out, "float32", GOLDEN / "stage_1")
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stage_1", "stage_2"])
def test_ten_guided_steps_equal_the_pipeline_of_diffusers(name, converted, monkeypatch):
    """From the prompts on, with the noise that the pipeline drew."""
    stored = safetensors.numpy.load_file(GOLDEN / "expected.safetensors")
    golden = {
        key.removeprefix(f"{name}.pipeline."): jnp.asarray(np.moveaxis(x, -3, -1))
        for key, x in stored.items()
        if key.startswith(f"{name}.pipeline.")
    }
    monkeypatch.setattr(samplers, "normal", lambda keys, shape: golden["initial"])
    monkeypatch.setattr(samplers, "noise", lambda keys, step, z: golden["steps"][step.index])
    monkeypatch.setattr(process, "normal", lambda keys, shape: golden["augmentation"])
    stage = open_stage(converted / f"{name}.safetensors")
    networks, side = build_networks(stage.config), stage.config.resolution
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    (text,) = TextEncoders([stage], mesh)(PROMPTS, 3)
    settings = dataclasses.replace(stage.config.sampling, num_steps=len(golden["steps"]) + 1)
    plan, numbers = plan_sampling(stage.config, settings, (side, side))
    run = Run(stage.config, plan, networks, (side, side))
    keys = jax.random.split(jax.random.key(0), len(PROMPTS))
    shown = {"low_res": golden["low_res"]} if "low_res" in golden else {}
    conditions = Conditions(text=text.text, mask=text.mask, pictures=shown)
    inputs = (keys, conditions, text.null)
    params = {"unet": stage.unet.load(mesh)}
    pictures = tiny.painted_images(run, params, numbers, *jax.tree.map(jnp.asarray, inputs))
    assert golden["pictures"].std() > 0.1
    np.testing.assert_allclose(pictures, golden["pictures"], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_header_says_how_to_sample(converted):
    one, two = (load_weights(converted / f"stage_{i}.safetensors").config for i in (1, 2))
    shared = {"thresholding": "dynamic", "percentile": 95.0, "spacing": "leading"}
    assert one.sampling == SamplingConfig(
        num_steps=100, guidance_scale=7.0, max_threshold=1.5, **shared
    )
    assert two.sampling == SamplingConfig(
        num_steps=50, guidance_scale=4.0, max_threshold=1.0, aug_level=0.25, **shared
    )
    assert (one.low_resolution, two.low_resolution) == (None, 8)
    assert {config.diffusion.schedule for config in (one, two)} == {"cosine_chain"}
    assert one.text_encoder == two.text_encoder
    text = one.text_encoder
    assert (text.max_length, text.lowercase, text.null) == (77, True, "empty")
    assert Path(text.tokenizer) == (GOLDEN / "stage_1" / "tokenizer").absolute()


@pytest.mark.parametrize(
    ("name", "file"),
    [("IF-I-M", "i_m"), ("IF-I-L", "i_l"), ("IF-I-XL", "i_xl"), ("IF-II-M", "ii_m"),
     ("IF-II-L", "ii_l")],
)  # fmt: skip
def test_the_configs_without_weights_are_those_of_the_published_sizes(name, file, tmp_path):
    """But for where the text encoder is, and the rounding of 1 / 0.7071."""
    shapes = GOLDEN.with_name("deepfloyd_if_shapes.json.xz")
    published = json.loads(lzma.decompress(shapes.read_bytes()))[name]["config"]
    stage = GOLDEN / ("stage_2" if "-II-" in name else "stage_1")
    shutil.copytree(stage, tmp_path, dirs_exist_ok=True)
    shutil.copytree(GOLDEN / "stage_1" / "tokenizer", tmp_path / "tokenizer", dirs_exist_ok=True)
    (tmp_path / "unet" / "config.json").write_text(json.dumps(published))
    xxl = dataclasses.asdict(T5_PRESETS["xxl"])
    (tmp_path / "text_encoder").mkdir(exist_ok=True)
    (tmp_path / "text_encoder" / "config.json").write_text(
        json.dumps(xxl | {"model_type": "t5", "feed_forward_proj": "gated-gelu"})
    )
    stored = read_unet_config(tmp_path / "unet" / "config.json")
    wanted = stage_config(tmp_path, stored, tmp_path, "bfloat16")
    config = load_config(ROOT / "configs" / "deepfloyd_if" / f"{file}.py")
    places = {"tokenizer": "", "source": ""}
    scale = {"variant": {"residual_scale": 0.7071 if "-II-" in name else 1.0}}
    ours, theirs = (tiny.replace(c, text_encoder=places, unet=scale) for c in (config, wanted))
    assert ours == theirs
    scales = [one.unet.variant.residual_scale for one in (config, wanted)]
    assert scales[0] == pytest.approx(scales[1], rel=1e-4)


@pytest.mark.slow
def test_convert_and_sample_from_the_shell(directory, tmp_path):
    """The golden stage I paints 16 pixels and stage II takes 8; the weights fit any size."""
    change(directory / "unet" / "config.json", sample_size=8)
    files = [tmp_path / "IF-I.safetensors", tmp_path / "IF-II.safetensors"]
    for pipeline, file in zip((directory, GOLDEN / "stage_2"), files, strict=True):
        result = call(
            verbs, "convert", "deepfloyd-if", pipeline, file, "--text-encoder", directory,
            "--dtype", "float32",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert f"{pipeline} carries no licence" in result.out
    out = tmp_path / "out"
    result = call(
        sample, "a red apple", "--base", files[0], "--sr256", files[1], "--steps", "2", "--out", out
    )  # fmt: skip
    assert result.code == 0, result.err
    assert Image.open(out / "00-a-red-apple-0-32.png").size == (32, 32)


def test_a_stage_takes_the_name_of_a_set_of_steps():
    defaults = [SamplingConfig(timesteps=(5, 0), num_steps=2), SamplingConfig(num_steps=3)]
    flags = sample.parse(["a", "--steps", "super27,4"]).sampling
    one, two = changed_settings(defaults, sample.settings_of(flags, 2))
    assert (one.num_steps, one.timesteps[:2], one.timesteps[-1]) == (27, (999, 991), 0)
    assert (two.num_steps, two.timesteps) == (4, ())
    own = sample.settings_of(sample.parse(["a", "--steps", "2,3"]).sampling, 2)
    assert changed_settings(defaults, own) == defaults
    unchanged = sample.settings_of(sample.parse(["a"]).sampling, 2)
    assert changed_settings(defaults, unchanged) == defaults


def test_another_number_of_steps_leaves_a_stages_own_times():
    own = SamplingConfig(timesteps=(5, 0), num_steps=2)
    of = lambda **settings: changed_settings([own], settings)[0].timesteps  # noqa: E731
    assert (of(num_steps=3), of(num_steps=2), of(eta=0.5)) == ((), (5, 0), (5, 0))


@pytest.mark.parametrize("steps", [(5,), (5, 5), (0, 5), (1000, 5), (5, -1)])
def test_steps_that_do_not_descend_along_the_chain_are_refused(steps):
    with pytest.raises(UsageError, match="SamplingConfig.timesteps"):
        SamplingConfig(timesteps=steps, num_steps=2)


@pytest.fixture
def directory(tmp_path):
    """A copy of stage I's directory."""
    return Path(shutil.copytree(GOLDEN / "stage_1", tmp_path / "IF-I"))


def convert(directory, out, text_from=None):
    return convert_deepfloyd_if(directory, out, "float32", text_from or directory)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "has beta_schedule 'lin"),
        ("scheduler/scheduler_config.json", {"variance_type": "fixed_small"}, "variance_type"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "odd"}, "timestep_spacing 'odd'"),
        ("scheduler/scheduler_config.json", {"sample_max_value": None}, "sample_max_value None"),
        ("text_encoder/config.json", {"d_model": 64}, "has d_model 64; the U-Net was trained on"),
        ("unet/config.json", {"act_fn": "silu"}, "has act_fn 'silu'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(directory, file, changes, message):
    change(directory / file, **changes)
    with pytest.raises(UsageError, match=message):
        convert(directory, directory / "out.safetensors")
    assert not list(directory.glob("*out*"))


def test_a_wrong_directory_is_refused(directory, tmp_path):
    out = tmp_path / "out.safetensors"
    result = call(verbs, "convert", "deepfloyd-if", directory / "unet", out)
    refused(result, "has no directory unet; name the whole pipeline")
    result = call(verbs, "convert", "deepfloyd-if", GOLDEN / "stage_2", out)
    refused(result, "stage_2/text_encoder does not exist", "--text-encoder")
    inside = directory / "unet" / "diffusion_pytorch_model.safetensors"
    result = call(verbs, "convert", "deepfloyd-if", directory, inside)
    refused(result, "lies in what is read")
    result = call(verbs, "convert", "t5", directory, out, "--text-encoder", directory)
    refused(result, "it is for deepfloyd-if only")
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: shutil.rmtree(text), ["text_encoder.source is", "no such directory"]),
        (
            lambda text: cut(largest(text)),
            ["model.safetensors is not a safetensors file or is cut"],
        ),
        (lambda text: change(text / "config.json", d_ff=48), ["shape (40, 32)", "says (48, 32)"]),
        (lambda text: largest(text).write_text("<html>"), ["is not a safetensors file"]),
    ],
)
def test_a_text_encoder_that_is_no_longer_what_it_was_is_refused(damage, says, directory, tmp_path):
    """The exported stage names its directory; nothing is painted or left behind."""
    convert(directory, tmp_path / "IF-I.safetensors")
    damage(directory / "text_encoder")
    before = tree(tmp_path)
    out = tmp_path / "out"
    refused(call(sample, "a", "--base", tmp_path / "IF-I.safetensors", "--out", out), *says)
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_stages_that_cannot_be_painted_from_are_refused(converted, directory):
    result = call(sample, "a", "--base", converted / "stage_2.safetensors")
    refused(result, "(deepfloyd_if_2) takes 8-pixel pictures, but it comes first")
    refused(call(sample, "a", "--base", directory), "a pipeline of diffusers", "convert deepfloyd")


def test_the_licence_that_the_directory_carries_is_told(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (directory / "README.md").write_text("---\ntags:\n- text\nlicense: deepfloyd-if\n---\nText")
    (directory / "LICENSE.md").write_text("All of it")
    said = licence(directory)
    assert said.endswith("IF-I: README.md says deepfloyd-if; see LICENSE.md there.")
    assert licence(directory / "text_encoder") == said  # A part of the pipeline.
    assert "unet carries no licence" in licence(Path(shutil.move(directory / "unet", "unet")))
