"""Reading T5 of Hugging Face: what is accepted, and what is said of the rest."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from imagen_jax.config import MeshConfig, T5Config
from imagen_jax.errors import UsageError
from imagen_jax.models.t5 import T5Encoder
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.t5_names import convert_t5, load_t5, read_t5_config, t5_names

GOLDEN = Path(__file__).parents[1] / "golden" / "t5"
GOLDEN_V1_0 = GOLDEN.with_name("t5_v1_0")
WEIGHTS = "model.safetensors"
CONFIG = T5Config(vocab_size=96, d_model=32, num_layers=2, num_heads=3, d_kv=8, d_ff=40)
CONFIG_V1_0 = dataclasses.replace(CONFIG, feed_forward="relu")


def load(source, config=CONFIG):
    return load_t5(source, config, make_mesh(MeshConfig()))


@pytest.fixture(scope="module")
def golden():
    return load(GOLDEN)


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


@pytest.mark.parametrize(("source", "config"), [(GOLDEN, CONFIG), (GOLDEN_V1_0, CONFIG_V1_0)])
def test_params_have_the_structure_of_the_module(source, config):
    params = load(source, config)
    module = nnx.eval_shape(lambda: nnx.state(T5Encoder(config, rngs=nnx.Rngs(0)), nnx.Param))
    module = nnx.to_pure_dict(module)
    assert jax.tree.structure(params) == jax.tree.structure(module)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), module
    )


def test_every_tensor_is_named_once():
    names = t5_names(CONFIG)
    assert set(names) == set(safetensors.numpy.load_file(GOLDEN / WEIGHTS))
    assert len(set(names.values())) == len(names)


def test_matrices_are_transposed_and_tables_are_not(golden):
    stored = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    np.testing.assert_array_equal(
        golden["blocks"][1]["feed_forward"]["wo"]["kernel"],
        stored["encoder.block.1.layer.1.DenseReluDense.wo.weight"].T,
    )
    np.testing.assert_array_equal(golden["token_embedding"], stored["shared.weight"])


def test_a_decoder_is_left_out(directory, golden):
    def add_decoder(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].copy()
        tensors["decoder.embed_tokens.weight"] = tensors["shared.weight"].copy()
        tensors["decoder.final_layer_norm.weight"] = np.ones(32, np.int8)
        tensors["lm_head.weight"] = np.ones((96, 32), np.float32)

    rewrite(directory, add_decoder)
    assert_same_params(load(directory), golden)


def test_the_embedding_is_found_under_its_other_name(directory, golden):
    def rename(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")

    rewrite(directory, rename)
    assert_same_params(load(directory), golden)


def shard(directory, variant=""):
    tensors = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    (directory / WEIGHTS).unlink()
    weight_map = {name: f"part-{i % 3}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        safetensors.numpy.save_file(part, directory / file)
    index = directory / f"model.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_equal_one_file(directory, golden, variant):
    shard(directory, variant)
    assert_same_params(load(directory), golden)


def test_a_variant_is_read_where_it_is_all_there_is(directory, golden):
    (directory / WEIGHTS).rename(directory / "model.fp16.safetensors")
    assert_same_params(load(directory), golden)


@pytest.mark.parametrize("target", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_any_precision_becomes_that_of_the_config(directory, golden, source, target):
    def change(tensors):
        tensors.update({name: value.astype(source) for name, value in tensors.items()})

    rewrite(directory, change)
    params = load(directory, dataclasses.replace(CONFIG, dtype=target))
    expected = jax.tree.map(lambda x: np.asarray(x).astype(source).astype(target), golden)
    assert_same_params(params, expected)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {target}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(CONFIG, d_ff=48), "has d_ff 40; the configuration has 48"),
        (CONFIG_V1_0, "has feed_forward 'gated-gelu'; the configuration has 'relu'"),
    ],
)
def test_the_given_config_must_have_the_stored_sizes(config, message):
    with pytest.raises(UsageError, match=message):
        load(GOLDEN, config)


def test_config_of_an_early_checkpoint_may_leave_out_what_all_had(tmp_path):
    config = json.loads((GOLDEN_V1_0 / "config.json").read_text())
    for name in ("relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(GOLDEN_V1_0 / WEIGHTS, tmp_path)
    assert_same_params(load(tmp_path, CONFIG_V1_0), load(GOLDEN_V1_0, CONFIG_V1_0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu'; what can be read"),
        ({"feed_forward_proj": ["relu"]}, r"feed_forward_proj \['relu'\]"),
        ({"model_type": "umt5"}, "model_type 'umt5'"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon 1e-05"),
        ({"d_ff": "40"}, "d_ff '40'; it must be an integer"),
        ({"num_heads": None}, "num_heads None"),
        ({"d_kv": 0}, "d_kv is 0"),
        ({"num_layers": 3}, r"9 tensors are missing \(encoder.block.2.layer.0.Self.*norm.weight\)"),
        ({"num_layers": 1}, "9 tensors are left over"),
        ({"feed_forward_proj": "relu"}, r"2 tensors are missing .* and 4 tensors are left over"),
        ({"d_ff": 41}, r"wi_0.weight has shape \(40, 32\); its config says \(41, 32\)"),
        ({"vocab_size": 97}, r"shared.weight has shape \(96, 32\)"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(directory, changes, message):
    rewrite_config(directory, **changes)
    with pytest.raises(UsageError, match=message):
        convert_t5(directory, directory / "out.safetensors", "float32")
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", WEIGHTS]


ODD = [None, True, -1, 0, 0.5, 1e999, 10**30, 10**400, "x", [], [[]], {}]


@pytest.mark.parametrize("field", sorted(json.loads((GOLDEN / "config.json").read_text())))
def test_any_value_of_any_field_is_read_or_refused_in_a_sentence(field, directory):
    for value in ODD:
        rewrite_config(directory, **{field: value})
        try:
            read_t5_config(directory)
        except UsageError as error:
            assert str(error).startswith(str(directory / "config.json")), error
            assert len(str(error)) < 1000 and "\n" not in str(error)


@pytest.mark.parametrize(
    ("field", "value", "most"),
    [
        ("num_layers", 10**8, "1,000"),
        ("d_model", 2**40, "1,048,576"),
        ("vocab_size", 10**30, "16,777,216"),
        ("d_kv", 2**20, "inner_width is 3145728; it must be at most 1,048,576"),
    ],
)
def test_absurd_sizes_are_refused_before_any_name_is_made(
    field, value, most, directory, monkeypatch
):
    monkeypatch.setattr("imagen_jax.weights.t5_names.t5_names", None)
    rewrite_config(directory, **{field: value})
    with pytest.raises(UsageError, match=most):
        convert_t5(directory, directory.with_suffix(".safetensors"), "float32")


def test_distances_that_no_bucket_could_tell_apart_are_refused(directory):
    rewrite_config(directory, relative_attention_max_distance=8)
    with pytest.raises(UsageError, match="must be more than a quarter of relative_attention_num"):
        read_t5_config(directory)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere/config.json cannot be read: No such file"):
        load(tmp_path / "nowhere")


def test_a_pipeline_is_told_from_its_text_encoder(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "text_encoder")
    with pytest.raises(UsageError, match="is a pipeline; name its directory text_encoder"):
        load(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "holds a list")])
def test_a_damaged_config_is_refused(directory, text, message):
    (directory / "config.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        load(directory)


def test_a_directory_without_weights_is_refused(directory):
    (directory / WEIGHTS).unlink()
    with pytest.raises(UsageError, match="holds neither model.safetensors nor pytorch_model.bin"):
        load(directory)


@pytest.mark.parametrize("kept", [0, 4, 500, -1])
def test_truncated_weights_are_refused(directory, kept):
    path = directory / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match="not a safetensors file or is cut short"):
        load(directory)


def test_a_missing_tensor_is_named(directory):
    rewrite(directory, lambda tensors: tensors.pop("encoder.final_layer_norm.weight"))
    with pytest.raises(UsageError, match=r"1 tensors are missing \(encoder.final_layer_norm"):
        load(directory)


def test_of_many_unknown_tensors_twenty_are_named(directory):
    extra = {f"extra{i:02}": np.ones(3, np.float32) for i in range(25)}
    rewrite(directory, lambda tensors: tensors.update(extra))
    with pytest.raises(UsageError, match=r"25 tensors are left over .*extra19 and 5 more\)"):
        load(directory)


@pytest.mark.parametrize(("dtype", "name"), [(np.int8, "I8"), (np.float64, "F64")])
def test_other_numbers_are_refused(directory, dtype, name):
    norm = "encoder.final_layer_norm.weight"
    rewrite(directory, lambda tensors: tensors.update({norm: np.ones(32, dtype)}))
    with pytest.raises(UsageError, match=f"is {name}; weights must be one of"):
        load(directory)


def test_missing_shards_are_named(directory):
    shard(directory)
    for number in (0, 2):
        (directory / f"part-{number}.safetensors").unlink()
    with pytest.raises(UsageError, match="missing: part-0.safetensors, part-2.safetensors"):
        load(directory)


def test_a_shard_without_its_tensor_is_named(directory):
    index = shard(directory)
    content = json.loads(index.read_text())
    content["weight_map"]["shared.weight"] = "part-1.safetensors"
    moved = safetensors.numpy.load_file(directory / "part-1.safetensors")
    moved.pop("shared.weight", None)
    safetensors.numpy.save_file(moved, directory / "part-1.safetensors")
    index.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="part-1.safetensors lacks .*: shared.weight"):
        load(directory)


def test_of_several_copies_the_one_that_is_whole_is_read(directory, golden):
    """As a download of one variant with all *.json leaves them."""
    text = shard(directory, ".fp16").read_text()
    (directory / "model.safetensors.index.json").write_text(text.replace("part", "model"))
    assert_same_params(load(directory), golden)
    (directory / "part-1.safetensors").unlink()
    with pytest.raises(UsageError, match=r"index\.json names files that are missing: model-0"):
        load(directory)


def test_a_file_with_its_config_beside_it_equals_its_directory(directory, golden, tmp_path):
    file = (directory / WEIGHTS).rename(directory / "t5-encoder.safetensors")
    assert_same_params(load(file), golden)
    out = tmp_path / "converted" / "x.safetensors"
    assert convert_t5(file, out, "float32") == CONFIG
    assert_same_params(load(out), golden)
    (directory / "config.json").unlink()
    with pytest.raises(UsageError, match="t5-encoder.safetensors is neither an exported stage"):
        load(file)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {"shared.weight": 1}}'])
def test_an_index_without_a_map_is_refused(directory, text):
    index = shard(directory)
    index.write_text(text)
    with pytest.raises(UsageError, match="no weight_map"):
        load(directory)


def test_a_converted_file_equals_its_directory(directory, golden):
    path = directory / "out" / "t5.safetensors"
    assert convert_t5(GOLDEN, path, "float32") == CONFIG
    assert_same_params(load(path), golden)
    assert [file.name for file in path.parent.iterdir()] == ["t5.safetensors"]


def test_a_converted_file_of_another_config_is_refused(tmp_path):
    path = tmp_path / "t5.safetensors"
    convert_t5(GOLDEN, path, "bfloat16")
    header = open_file(path)[0]
    header["config"] = header["config"].replace('"num_layers": 2', '"num_layers": 1')
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, metadata=header)
    with pytest.raises(UsageError, match=r"9 tensors are left over \(blocks.1.attention.k.kernel"):
        load(path)


def to_torch(directory, changes=lambda tensors: tensors, **options):
    """The golden weights as PyTorch's file; the safetensors are taken away."""
    torch = pytest.importorskip("torch")
    tensors = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    tensors = changes({name: torch.from_numpy(x) for name, x in tensors.items()})
    (directory / WEIGHTS).unlink()
    torch.save(tensors, directory / "pytorch_model.bin", **options)
    return directory / "pytorch_model.bin"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_equals_safetensors(directory, golden, zipped):
    to_torch(directory, _use_new_zipfile_serialization=zipped)
    assert_same_params(load(directory), golden)


def test_torch_shards_in_bfloat16_equal_safetensors(directory, golden):
    torch = pytest.importorskip("torch")
    tensors = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    (directory / WEIGHTS).unlink()
    parts = {name: f"part-{i % 2}.bin" for i, name in enumerate(tensors)}
    for file in set(parts.values()):
        part = {
            name: torch.from_numpy(tensors[name]).to(torch.bfloat16)
            for name in tensors if parts[name] == file
        }  # fmt: skip
        torch.save(part, directory / file)
    index = directory / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    expected = jax.tree.map(lambda x: np.asarray(x).astype("bfloat16").astype("float32"), golden)
    assert_same_params(load(directory), expected)


class Evil:
    """What a pickle may hold: a call, made when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_runs_nothing(directory, zipped):
    trace = directory / "was_here"
    to_torch(
        directory, lambda tensors: tensors | {"x": Evil(trace)},
        _use_new_zipfile_serialization=zipped,
    )  # fmt: skip
    with pytest.raises(UsageError, match="holds more than tensors"):
        load(directory)
    assert not trace.exists()


def test_a_torch_file_of_something_else_is_refused(directory):
    to_torch(directory, lambda tensors: list(tensors.values()))
    with pytest.raises(UsageError, match="not a dict of tensors"):
        load(directory)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 3, 100, 5000, -1, -100])
def test_a_torch_file_cut_short_is_refused(directory, zipped, kept):
    path = to_torch(directory, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match="pytorch_model.bin is cut short"):
        load(directory)


def test_without_torch_its_file_is_refused(directory, monkeypatch):
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="read by PyTorch only, which is not installed"):
        load(directory)
