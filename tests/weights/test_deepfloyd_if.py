"""DeepFloyd IF's U-Nets from diffusers' directories: every tensor, and what must be refused."""

import json
import lzma
import math
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from imagen_jax.errors import UsageError
from imagen_jax.weights.deepfloyd_config import read_unet_config
from imagen_jax.weights.deepfloyd_if import open_unet, stored_names, stored_shapes

GOLDEN = Path(__file__).parents[1] / "golden" / "deepfloyd_if"
STAGE_1, STAGE_2 = GOLDEN / "stage_1" / "unet", GOLDEN / "stage_2" / "unet"
SHAPES = GOLDEN.with_name("deepfloyd_if_shapes.json.xz")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def directory(tmp_path):
    """A copy of stage I's directory."""
    return Path(shutil.copytree(STAGE_1, tmp_path / "unet"))


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def stored_tensors(directory):
    tensors = {}
    for file in directory.glob("*.safetensors"):
        tensors |= safetensors.numpy.load_file(file)
    return tensors


@pytest.mark.parametrize("directory", [STAGE_1, STAGE_2], ids=["whole float32", "fp16 in shards"])
def test_every_stored_tensor_is_read_once_with_all_its_values(directory):
    """Sums over all values and over their squares, whatever was transposed or put together."""
    stored = stored_tensors(directory)
    _, params = open_unet(directory)
    names = [name for path in flatten_dict(params) for name in stored_names(path)]
    assert sorted(names) == sorted(stored)
    for path, parameter in flatten_dict(params).items():
        value = parameter.whole("float32")
        assert value.shape == parameter.shape
        parts = [stored[name].astype(np.float64) for name in stored_names(path)]
        assert value.dtype == np.float32 and value.size == sum(part.size for part in parts)
        for power in (1, 2):
            expected = sum((part**power).sum() for part in parts)
            np.testing.assert_allclose((value.astype(np.float64) ** power).sum(), expected)


def test_tensors_can_be_kept_in_bfloat16():
    _, params = open_unet(STAGE_1)
    parameter = params["conv_in"]["kernel"]
    half = parameter.whole("bfloat16")
    assert half.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), parameter.whole("float32"), rtol=4e-3)


def test_the_sizes_come_from_the_config():
    one, two = (read_unet_config(directory / "config.json") for directory in (STAGE_1, STAGE_2))
    assert (one.resolution, one.low_res, two.resolution, two.low_res) == (16, False, 32, True)
    assert one.config.attention_resolutions == (8, 4, 2)
    assert two.config.attention_resolutions == (4, 2)
    assert one.config.num_res_blocks == (2, 2, 2, 2)
    assert two.config.num_res_blocks == (1, 1, 2, 2, 2)
    one, two = one.config.variant, two.config.variant
    assert (one.embedding_dim, two.embedding_dim) == (None, 64)
    assert (one.residual_scale, two.residual_scale) == (1, pytest.approx(2**-0.5))
    assert (one.embedding_activation, two.embedding_activation) == ("per_block", "once")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "silu"}, "has act_fn 'silu'; DeepFloyd IF's stages I and II have 'gelu'"),
        ({"down_block_types": ["CrossAttnDownBlock2D"] * 4}, "'CrossAttnDownBlock2D' in down_"),
        ({"down_block_types": ["ResnetDownsampleBlock2D"] * 4}, "do not mirror"),
        ({"block_out_channels": [8, 12, 24, 32]}, "must be a multiple of the first"),
        ({"block_out_channels": "8"}, "must be a list of positive integers"),
        ({"sample_size": None}, "has sample_size None; it must be a positive integer"),
        ({"class_embed_type": "timestep"}, "has class_embed_type 'timestep' with 3 in_channels"),
        ({"addition_embed_type_num_heads": 5}, "by 5 heads"),
        ({"resnet_skip_time_act": True}, "has resnet_skip_time_act True"),
        ({"mid_block_scale_factor": 2}, "must be the same positive number"),
        ({"time_embedding_type": "fourier"}, "has time_embedding_type 'fourier'"),
        ({"time_embedding_dim": 0}, "has time_embedding_dim 0; it must be a positive integer"),
    ],
)
def test_a_config_of_another_network_is_refused(directory, changes, message):
    change_config(directory, **changes)
    with pytest.raises(UsageError, match=message) as caught:
        open_unet(directory)
    assert str(directory / "config.json") in str(caught.value)


FIELDS = sorted(json.loads((STAGE_2 / "config.json").read_text()))
ODD = [None, True, -1, 0, 0.5, 1e999, 10**30, 10**400, "x", [], [10**30], [[]], {}, [1] * 10**5]


@pytest.mark.parametrize("unet", [STAGE_1, STAGE_2], ids=["I", "II"])
@pytest.mark.parametrize("field", FIELDS)
def test_any_value_of_any_field_is_read_or_refused_in_a_sentence(field, unet, tmp_path):
    stored = json.loads((unet / "config.json").read_text())
    for value in ODD:
        (tmp_path / "config.json").write_text(json.dumps(stored | {field: value}))
        try:
            read_unet_config(tmp_path / "config.json")
        except UsageError as error:
            assert str(error).startswith(str(tmp_path / "config.json")), error
            assert len(str(error)) < 1000 and "\n" not in str(error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"addition_embed_type_num_heads": None}, "num_heads None; it must be a positive integer"),
        ({"layers_per_block": 10**8}, "num_res_blocks is 400000000; it must be at most 1,000"),
        ({"block_out_channels": [2**21] * 4}, "embed_dim is 2097152; it must be at most 1,048,576"),
        ({"block_out_channels": [8] * 10**4}, "has 10000 block_out_channels; there must be 1 to"),
        ({"norm_num_groups": 10**30}, "norm_groups is 10{30}; it must be at most"),
    ],
)
def test_absurd_sizes_are_refused_before_any_network_is_made(
    directory, changes, message, monkeypatch
):
    monkeypatch.setattr("imagen_jax.weights.deepfloyd_if.UNet", None)
    change_config(directory, **changes)
    with pytest.raises(UsageError, match=message):
        open_unet(directory)


def test_what_is_null_is_as_if_it_were_not_there(directory):
    before = read_unet_config(directory / "config.json")
    change_config(directory, encoder_hid_dim_type=None, time_embedding_dim=None)
    assert read_unet_config(directory / "config.json") == before


def test_missing_and_left_over_tensors_are_listed(directory):
    tensors = safetensors.numpy.load_file(directory / WEIGHTS)
    tensors["extra.weight"] = tensors.pop("conv_in.weight")
    tensors.pop("mid_block.attentions.0.to_k.bias")
    safetensors.numpy.save_file(tensors, directory / WEIGHTS)
    missing = (
        r"2 tensors are missing \(conv_in.weight, mid_block.attentions.0.to_k.bias\) and "
        r"1 tensors are left over \(extra.weight\)"
    )
    with pytest.raises(UsageError, match=missing):
        open_unet(directory)


def test_shapes_that_contradict_the_config_are_refused(directory):
    change_config(directory, cross_attention_dim=96)
    with pytest.raises(UsageError, match="; its config says"):
        open_unet(directory)


def test_damaged_and_missing_files_are_named(directory):
    whole = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="is not a safetensors file or is cut short"):
        open_unet(directory)
    (directory / WEIGHTS).unlink()
    with pytest.raises(UsageError, match="holds neither diffusion_pytorch_model.safetensors nor"):
        open_unet(directory)
    (directory / "config.json").write_text("[]")
    with pytest.raises(UsageError, match="it must be a JSON object"):
        open_unet(directory)


def test_a_missing_shard_is_named(tmp_path):
    directory = Path(shutil.copytree(STAGE_2, tmp_path / "unet"))
    shard = next(directory.glob("*00002-of*"))
    shard.unlink()
    with pytest.raises(UsageError, match=shard.name):
        open_unet(directory)


def test_integers_are_no_weights(directory):
    tensors = safetensors.numpy.load_file(directory / WEIGHTS)
    tensors["conv_in.bias"] = tensors["conv_in.bias"].astype(np.int32)
    safetensors.numpy.save_file(tensors, directory / WEIGHTS)
    with pytest.raises(UsageError, match="conv_in.bias is I32"):
        open_unet(directory)


COUNTS = {
    "IF-I-M": 371.6, "IF-I-L": 935.4, "IF-I-XL": 4304.7, "IF-II-M": 482.5, "IF-II-L": 1243.3,
}  # fmt: skip
"""Millions of parameters of diffusers' networks; the model cards say 400, 900, 4300, 450, 1200."""


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_the_published_sizes_have_the_names_and_shapes_of_diffusers(name, tmp_path):
    published = json.loads(lzma.decompress(SHAPES.read_bytes()))[name]
    (tmp_path / "config.json").write_text(json.dumps(published["config"]))
    shapes = stored_shapes(read_unet_config(tmp_path / "config.json"))
    assert {name: list(shape) for name, shape in shapes.items()} == published["tensors"]
    assert round(sum(map(math.prod, shapes.values())) / 1e6, 1) == COUNTS[name]
