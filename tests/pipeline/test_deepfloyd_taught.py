"""Stages in the form of DeepFloyd IF that are shown a sketch, have an adapter, or both."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image
from scripts import call, refused, sample, verbs

from imagen_jax.config import AdapterConfig, ConditionsConfig
from imagen_jax.networks import ADAPTER
from imagen_jax.stored.stages import load_weights, open_stage
from imagen_jax.weights.adapter_file import save_adapter_file
from imagen_jax.weights.deepfloyd_stage import convert_deepfloyd_if
from imagen_jax.weights.stage_file import save_stage_file

GOLDEN = Path(__file__).parents[1] / "golden" / "deepfloyd_if"
ATTENTION = ("unet*attention*query.kernel", "unet*attention*key_value.kernel")
SKETCHES = ConditionsConfig(pictures=("sketch:1",), picture_dropout=0.2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("taught")


@pytest.fixture(scope="module")
def stages(place):
    """Stages I and II as `convert` writes them."""
    files = {"base": place / "one.safetensors", "sr256": place / "two.safetensors"}
    for name, path in zip(("stage_1", "stage_2"), files.values(), strict=True):
        convert_deepfloyd_if(GOLDEN / name, path, "float32", GOLDEN / "stage_1")
    return files


def shown_sketches(stage, out):
    """The same stage with a sketch, whose part of the network is random."""
    stored = load_weights(stage)
    config = dataclasses.replace(stored.config, conditions=SKETCHES)
    params = flatten_dict(tiny.random_params(config)) | flatten_dict(stored.params)
    save_stage_file(out, config, unflatten_dict(params), "float32")
    return out


def adapter_of(stage, out):
    """A random adapter of its attention, whose factors are added by half."""
    config = AdapterConfig(rank=4, alpha=2.0, targets=ATTENTION, base=str(stage))
    params = tiny.random_params(dataclasses.replace(load_weights(stage).config, adapter=config))
    fits = {"unet": open_stage(stage).unet.fingerprint()}
    save_adapter_file(out, config, fits, params[ADAPTER], "float32", "ema")
    return out


def painted(out, *flags, side=16):
    """The picture that `sample.py` paints of a thing, in three steps."""
    done = call(sample, "a zibo toy", *flags, "--steps", 3, "--out", out)
    assert done.code == 0, done.err
    return np.asarray(Image.open(out / f"00-a-zibo-toy-0-{side}.png")).astype(int)


@pytest.fixture(scope="module")
def sketched(place, stages):
    """Stage I that is shown a sketch."""
    return shown_sketches(stages["base"], place / "sketched.safetensors")


@pytest.fixture
def sketch(tmp_path):
    path = tmp_path / "sketch.png"
    Image.fromarray(np.where(np.eye(16, dtype=bool), 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.mark.slow
def test_stage_i_follows_a_sketch_that_may_be_left_out(sketched, sketch, tmp_path):
    own = ("--base", sketched, "--sr256", "none")
    plain = painted(tmp_path / "plain", *own)
    told = painted(tmp_path / "told", *own, "--sketch", sketch)
    guided = painted(tmp_path / "guided", *own, "--sketch", sketch, "--picture-guidance", 3)
    assert np.abs(told - plain).max() > 1 and np.abs(guided - told).max() > 1


@pytest.mark.slow
def test_stage_ii_follows_a_sketch_whole_and_split(stages, sketch, tmp_path):
    second = shown_sketches(stages["sr256"], tmp_path / "second.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    own = ("--base", "none", "--sr256", second, "--image", tmp_path / "small.png")
    own += ("--batch-size", 1)
    plain = painted(tmp_path / "plain", *own, side=32)
    told = painted(tmp_path / "told", *own, "--sketch", sketch, side=32)
    split = painted(tmp_path / "split", *own, "--sketch", sketch, "--split-height", 4, side=32)
    assert np.abs(told - plain).max() > 1
    assert np.abs(split - told).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("beside", ["imported", "sketched"])
def test_an_adapter_for_diffusers_comes_back_as_it_was(beside, stages, sketched, sketch, tmp_path):
    """Written by the command line, read by it, and painted with: the same picture."""
    stage = stages["base"] if beside == "imported" else sketched
    shown = () if beside == "imported" else ("--sketch", sketch)
    ours = adapter_of(stage, tmp_path / "ours.safetensors")
    lora, back = tmp_path / "lora.safetensors", tmp_path / "back.safetensors"
    for words in (
        ("export", ours, lora, "--layout", "diffusers", "--dtype", "float32"),
        ("convert", "deepfloyd-lora", lora, back, "--stage", stage, "--dtype", "float32"),
    ):
        done = call(verbs, *words)
        assert done.code == 0, done.err
    own = ("--base", stage, "--sr256", "none", *shown)
    plain = painted(tmp_path / "plain", *own)
    first, second = (
        painted(tmp_path / path.stem, *own, "--base-adapters", path) for path in (ours, back)
    )
    assert np.abs(first - plain).max() > 10
    assert np.abs(first - second).max() <= 1
    other = stages["base"] if beside == "sketched" else sketched
    wrong = call(sample, "a", "--base", other, "--sr256", "none", "--base-adapters", back)
    refused(wrong, "is an adapter of another stage than")


@pytest.mark.slow
def test_a_stage_that_is_shown_a_sketch_is_none_of_diffusers(sketched, tmp_path):
    done = call(verbs, "export", sketched, tmp_path / "out", "--layout", "diffusers")
    refused(done, "is not in the form of a stage of DeepFloyd IF")
