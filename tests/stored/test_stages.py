"""Frozen text encoders, from all places that a stage may name."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scripts import ROOT

from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import claim_directory
from imagen_jax.conditions import Conditions
from imagen_jax.config import MeshConfig, T5Config
from imagen_jax.errors import UsageError
from imagen_jax.networks import build_networks
from imagen_jax.parallel.mesh import make_mesh, parameter_shardings
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.sampling import Run, StepwiseSampler, picture_keys
from imagen_jax.stored.stages import load_frozen_encoder, load_weights, open_stage
from imagen_jax.weights.stage_file import save_stage_file
from imagen_jax.weights.t5_names import convert_t5

GOLDEN = ROOT / "tests" / "golden" / "t5"
T5 = T5Config(vocab_size=96, d_model=32, num_layers=2, num_heads=3, d_kv=8, d_ff=40)


def reading(source, dtype="float32"):
    """A stage whose encoder is read from `source`."""
    t5 = tiny.replace(T5, dtype=dtype)
    return tiny.stage(text_encoder={"t5": t5, "train": False, "source": str(source)})


def load(source, dtype="float32"):
    return load_frozen_encoder(reading(source, dtype), None, make_mesh(MeshConfig()))


@pytest.fixture
def converted(tmp_path):
    convert_t5(GOLDEN, tmp_path / "t5.safetensors", "float32")
    return tmp_path / "t5.safetensors"


def stage_with(encoder, dtype, path):
    """An exported stage that holds the encoder."""
    config = reading("elsewhere", dtype)
    params = tiny.random_params(config) | {"text_encoder": encoder}
    save_stage_file(path, config, params, "float32")
    return path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_directory_converted_file_and_stage_give_the_same(converted, dtype, tmp_path):
    mesh = make_mesh(MeshConfig())
    wanted = load(GOLDEN, dtype)
    stage = stage_with(wanted, dtype, tmp_path / "stage.safetensors")
    assert {str(x.dtype) for x in jax.tree.leaves(wanted)} == {dtype}
    for source in (GOLDEN, GOLDEN / "model.safetensors", converted, stage):
        encoder = load(source, dtype)
        jax.tree.map(np.testing.assert_array_equal, encoder, wanted)
        assert jax.tree.map(lambda x: x.dtype, encoder) == jax.tree.map(lambda x: x.dtype, wanted)
        assert jax.tree.map(lambda x: x.sharding, encoder) == parameter_shardings(encoder, mesh)


def test_a_stage_without_encoder_finds_the_one_that_it_names(tmp_path, converted):
    config = reading(converted)
    save_stage_file(tmp_path / "unet.safetensors", config, tiny.random_params(config), "float32")
    loaded = load_weights(tmp_path / "unet.safetensors").params["text_encoder"]
    jax.tree.map(np.testing.assert_array_equal, loaded, load(GOLDEN))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "stored"),
    [(tiny.stage, "bfloat16"), (tiny.stage, "float32"), (tiny.super_resolution, "bfloat16")],
)
def test_kernels_are_held_as_they_are_used_and_paint_the_same_pictures(stage, stored, tmp_path):
    """Against the same weights all in float32."""
    config, path = stage(unet={"dtype": "bfloat16"}), tmp_path / "x.safetensors"
    save_stage_file(path, config, tiny.random_params(config), stored)
    held = open_stage(path).unet.load(make_mesh(MeshConfig()))
    whole = load_weights(path).params["unet"]
    dtypes = {(p[-1].key, str(x.dtype)) for p, x in jax.tree.leaves_with_path(held)}
    assert dtypes == {("kernel", "bfloat16"), ("bias", "float32"), ("scale", "float32")}
    assert {str(x.dtype) for x in jax.tree.leaves(whole)} == {"float32"}
    plan, numbers = plan_sampling(config, config.sampling, (16, 16))
    sample = StepwiseSampler(Run(config, plan, build_networks(config), (16, 16)))
    batch, keys = tiny.batch(config, 2), picture_keys(0, 16, 2)
    text = np.random.default_rng(0).normal(size=(2, tiny.LENGTH, tiny.T5.d_model))
    pictures = {"low_res": batch["low_res"]} if "low_res" in batch else {}
    conditions = Conditions(text=text.astype(np.float32), mask=batch["mask"], pictures=pictures)
    inputs = (keys, conditions)
    ours, wanted = (
        np.asarray(sample({"unet": unet}, numbers, *inputs)[0]) for unet in (held, whole)
    )
    assert wanted.std() > 10
    np.testing.assert_array_equal(ours, wanted)


@pytest.mark.slow
def test_of_a_training_directory_one_network_is_read_at_a_time(tmp_path):
    """All of the checkpoint that was the newest when the stage was opened."""
    config = tiny.stage(unet={"dtype": "bfloat16"})
    claim_directory(tmp_path, config)
    state = tiny.state(config, 5)
    later = state.replace(step=np.int32(6), ema=state.params)
    with contextlib.closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        checkpoints.save(jax.tree.map(jnp.asarray, state), config, pictures=40)
    stage, mesh = open_stage(tmp_path), make_mesh(MeshConfig())
    with contextlib.closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        checkpoints.save(jax.tree.map(jnp.asarray, later), config, pictures=48)
    for network, name in ((stage.unet, "unet"), (stage.text_encoder, "text_encoder")):
        loaded = network.load(mesh)
        wanted = jax.tree.map(
            lambda x, like: x.astype(like.dtype), state.ema[name], network.abstract
        )
        jax.tree.map(np.testing.assert_array_equal, loaded, wanted)
        assert jax.tree.map(lambda x: x.sharding, loaded) == parameter_shardings(loaded, mesh)


def test_a_converted_encoder_is_no_stage(converted):
    with pytest.raises(UsageError, match="not an exported stage.*'imagen-jax text encoder 1'"):
        load_weights(converted)
