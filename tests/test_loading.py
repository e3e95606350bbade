"""Frozen text encoders, from all places that a stage may name."""

import jax
import numpy as np
import pytest
import tiny
from scripts import ROOT

from imagen_jax.config import MeshConfig, T5Config
from imagen_jax.errors import UsageError
from imagen_jax.loading import load_frozen_encoder, load_stage
from imagen_jax.parallel.mesh import make_mesh, parameter_shardings
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
    for source in (GOLDEN, converted, stage):
        encoder = load(source, dtype)
        jax.tree.map(np.testing.assert_array_equal, encoder, wanted)
        assert jax.tree.map(lambda x: x.dtype, encoder) == jax.tree.map(lambda x: x.dtype, wanted)
        assert jax.tree.map(lambda x: x.sharding, encoder) == parameter_shardings(encoder, mesh)


def test_a_stage_without_encoder_finds_the_one_that_it_names(tmp_path, converted):
    config = reading(converted)
    save_stage_file(tmp_path / "unet.safetensors", config, tiny.random_params(config), "float32")
    loaded = load_stage(tmp_path / "unet.safetensors").params["text_encoder"]
    jax.tree.map(np.testing.assert_array_equal, loaded, load(GOLDEN))


def test_a_converted_encoder_is_no_stage(converted):
    with pytest.raises(UsageError, match="not an exported stage.*'imagen-jax text encoder 1'"):
        load_stage(converted)
