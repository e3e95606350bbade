"""Reading T5 directories of Hugging Face: what is accepted, and what is said of the rest."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from imagen_jax.config import T5Config
from imagen_jax.errors import UsageError
from imagen_jax.models.t5 import T5Encoder
from imagen_jax.weights.t5_names import load_t5, t5_names

GOLDEN = Path(__file__).parents[1] / "golden" / "t5"
WEIGHTS = "model.safetensors"


@pytest.fixture
def directory(tmp_path):
    for name in ("config.json", WEIGHTS):
        shutil.copy(GOLDEN / name, tmp_path / name)
    return tmp_path


def rewrite(directory, change):
    tensors = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, directory / WEIGHTS)


def rewrite_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_same_params(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_params_have_the_structure_of_the_module():
    config, params = load_t5(GOLDEN)
    assert config == T5Config(vocab_size=96, d_model=32, num_layers=2, num_heads=3, d_kv=8, d_ff=40)
    module = nnx.to_pure_dict(nnx.state(T5Encoder(config, rngs=nnx.Rngs(0)), nnx.Param))
    assert jax.tree.structure(params) == jax.tree.structure(module)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, module)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_every_tensor_is_named_once():
    config, _ = load_t5(GOLDEN)
    names = t5_names(config)
    assert set(names) == set(safetensors.numpy.load_file(GOLDEN / WEIGHTS))
    assert len(set(names.values())) == len(names)


def test_matrices_are_transposed_and_tables_are_not():
    stored = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    _, params = load_t5(GOLDEN)
    np.testing.assert_array_equal(
        params["blocks"][1]["feed_forward"]["wo"]["kernel"],
        stored["encoder.block.1.layer.1.DenseReluDense.wo.weight"].T,
    )
    np.testing.assert_array_equal(params["token_embedding"], stored["shared.weight"])


def test_a_decoder_is_left_out(directory):
    def add_decoder(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].copy()
        tensors["decoder.embed_tokens.weight"] = tensors["shared.weight"].copy()
        tensors["decoder.final_layer_norm.weight"] = np.ones(32, np.float32)
        tensors["lm_head.weight"] = np.ones((96, 32), np.float32)

    rewrite(directory, add_decoder)
    assert_same_params(load_t5(directory)[1], load_t5(GOLDEN)[1])


def test_the_embedding_is_found_under_its_other_name(directory):
    def rename(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")

    rewrite(directory, rename)
    assert_same_params(load_t5(directory)[1], load_t5(GOLDEN)[1])


def shard(directory):
    tensors = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    (directory / WEIGHTS).unlink()
    weight_map = {name: f"part-{i % 3}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        safetensors.numpy.save_file(part, directory / file)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_shards_equal_one_file(directory):
    shard(directory)
    assert_same_params(load_t5(directory)[1], load_t5(GOLDEN)[1])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_becomes_float32(directory, dtype):
    def halve(tensors):
        tensors.update({name: value.astype(dtype) for name, value in tensors.items()})

    rewrite(directory, halve)
    _, params = load_t5(directory)
    expected = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), load_t5(GOLDEN)[1])
    assert_same_params(params, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_the_given_config_keeps_its_dtype():
    stored, _ = load_t5(GOLDEN)
    wanted = dataclasses.replace(stored, dtype="bfloat16")
    assert load_t5(GOLDEN, wanted)[0] == wanted


def test_the_given_config_must_have_the_stored_sizes():
    stored, _ = load_t5(GOLDEN)
    with pytest.raises(UsageError, match="has d_ff 40; the configuration has 48"):
        load_t5(GOLDEN, dataclasses.replace(stored, d_ff=48))


def test_config_of_an_early_checkpoint_needs_no_max_distance(directory):
    config = json.loads((GOLDEN / "config.json").read_text())
    del config["relative_attention_max_distance"], config["layer_norm_epsilon"]
    (directory / "config.json").write_text(json.dumps(config))
    assert load_t5(directory)[0] == load_t5(GOLDEN)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj 'relu'"),
        ({"model_type": "umt5"}, "model_type 'umt5'"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon 1e-05"),
        ({"d_ff": "40"}, "d_ff '40'; it must be an integer"),
        ({"num_heads": None}, "num_heads None"),
        ({"d_kv": 0}, "d_kv is 0"),
        ({"num_layers": 3}, "lack 9 tensors"),
        ({"num_layers": 1}, "hold 9 tensors"),
        ({"d_ff": 41}, r"wi_0.weight has shape \(40, 32\); the configuration makes it \(41, 32\)"),
        ({"vocab_size": 97}, r"shared.weight has shape \(96, 32\)"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(directory, changes, message):
    rewrite_config(directory, **changes)
    with pytest.raises(UsageError, match=message):
        load_t5(directory)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere/config.json cannot be read: No such file"):
        load_t5(tmp_path / "nowhere")


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "holds a list")])
def test_a_damaged_config_is_refused(directory, text, message):
    (directory / "config.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_t5(directory)


def test_pickled_weights_are_not_read(directory):
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")
    with pytest.raises(UsageError, match="safetensors files only"):
        load_t5(directory)


@pytest.mark.parametrize("kept", [0, 4, 500, -1])
def test_truncated_weights_are_refused(directory, kept):
    path = directory / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        load_t5(directory)


def test_a_missing_tensor_is_named(directory):
    rewrite(directory, lambda tensors: tensors.pop("encoder.final_layer_norm.weight"))
    with pytest.raises(UsageError, match="lack 1 tensors .* encoder.final_layer_norm.weight"):
        load_t5(directory)


def test_an_unknown_tensor_is_named(directory):
    rewrite(directory, lambda tensors: tensors.update(extra=np.ones(3, np.float32)))
    with pytest.raises(UsageError, match="hold 1 tensors .* extra"):
        load_t5(directory)


def test_integer_weights_are_refused(directory):
    name = "encoder.final_layer_norm.weight"
    rewrite(directory, lambda tensors: tensors.update({name: np.ones(32, np.int8)}))
    with pytest.raises(UsageError, match="is int8"):
        load_t5(directory)


def test_a_missing_shard_is_named(directory):
    shard(directory)
    (directory / "part-1.safetensors").unlink()
    with pytest.raises(UsageError, match="part-1.safetensors cannot be read"):
        load_t5(directory)


def test_a_shard_without_its_tensor_is_named(directory):
    index = shard(directory)
    content = json.loads(index.read_text())
    content["weight_map"]["shared.weight"] = "part-1.safetensors"
    moved = safetensors.numpy.load_file(directory / "part-1.safetensors")
    moved.pop("shared.weight", None)
    safetensors.numpy.save_file(moved, directory / "part-1.safetensors")
    index.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="shared.weight cannot be read"):
        load_t5(directory)


def test_an_index_without_a_map_is_refused(directory):
    index = shard(directory)
    index.write_text("{}")
    with pytest.raises(UsageError, match="no weight_map"):
        load_t5(directory)
