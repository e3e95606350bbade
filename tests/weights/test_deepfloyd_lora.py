"""LoRA files of diffusers for DeepFloyd IF."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from deepfloyd_networks import GOLDEN, build, run
from flax.traverse_util import flatten_dict

from imagen_jax.errors import UsageError
from imagen_jax.models import low_rank
from imagen_jax.weights.deepfloyd_lora import lora_tensors, read_lora

LORA = GOLDEN.with_name("deepfloyd_lora")
OLD = {"lora_A": "lora.down", "lora_B": "lora.up"}
"""Parts of names as older versions of diffusers wrote them."""


@pytest.fixture(scope="module")
def stage():
    return build(GOLDEN / "stage_1" / "unet")


def write(path: Path, tensors: dict) -> Path:
    safetensors.numpy.save_file(tensors, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_equals_diffusers_golden(stage, old, tmp_path):
    definition, params = stage
    path = LORA / "lora.safetensors"
    if old:
        renamed = safetensors.numpy.load_file(path)
        for new_part, old_part in OLD.items():
            renamed = {name.replace(new_part, old_part): x for name, x in renamed.items()}
        path = write(tmp_path / "old.safetensors", renamed)
    config, adapter = read_lora(path, params)
    merged = low_rank.merge(params, adapter["unet"], config.scale)
    stored = safetensors.numpy.load_file(GOLDEN / "expected.safetensors")
    sample, step, text = (
        stored[f"stage_1.network.{name}"]
        for name in ("sample", "timestep", "encoder_hidden_states")
    )
    arguments = (sample.transpose(0, 2, 3, 1), step.astype(np.float32), text)
    output = np.asarray(run(definition, merged, *arguments)[0])
    expected = safetensors.numpy.load_file(LORA / "expected.safetensors")["output"]
    plain = np.asarray(run(definition, params, *arguments)[0])
    assert np.abs(expected - plain).max() > 0.1
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def test_what_is_written_is_what_was_read(stage, tmp_path):
    """The matrices are the same; factors of two that lie side by side have the ranks of both."""
    _, params = stage
    config, adapter = read_lora(LORA / "lora.safetensors", params)
    path = write(tmp_path / "x.safetensors", lora_tensors(adapter, config.scale))
    names = set(safetensors.numpy.load_file(LORA / "lora.safetensors"))
    assert set(safetensors.numpy.load_file(path)) == names
    again = read_lora(path, params)[1]
    for left, right in zip(*(products(x["unet"], params) for x in (adapter, again)), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def products(adapter, params):
    zeros = jax.tree.map(np.zeros_like, params)
    return jax.tree.leaves(low_rank.merge(zeros, adapter, 1.0))


def test_an_alpha_is_a_factor(stage, tmp_path):
    _, params = stage
    module, shape = a_query(params)
    pair = {
        f"unet.{module}.lora_A.weight": np.ones((2, shape[0]), np.float32),
        f"unet.{module}.lora_B.weight": np.ones((shape[1], 2), np.float32),
        f"unet.{module}.alpha": np.full((), 1.0, np.float32),
    }
    config, adapter = read_lora(write(tmp_path / "x.safetensors", pair), params)
    (added,) = [x for x in products(adapter["unet"], params) if np.any(x)]
    assert config.rank == 2
    np.testing.assert_allclose(added, np.full(shape, 0.5 * 2.0))


def with_settings(path, params, settings):
    module, shape = a_query(params)
    pair = {
        f"unet.{module}.lora_A.weight": np.ones((2, shape[0]), np.float32),
        f"unet.{module}.lora_B.weight": np.ones((shape[1], 2), np.float32),
    }
    header = {"lora_adapter_metadata": settings}
    safetensors.numpy.save_file(pair, path, header)
    return shape, path


def test_an_alpha_of_pefts_settings_is_a_factor(stage, tmp_path):
    """As diffusers' save_lora_weights keeps them of `unet_lora_adapter_metadata`."""
    said = {"unet.r": 2, "unet.lora_alpha": 8, "unet.use_rslora": False, "unet.alpha_pattern": {}}
    shape, path = with_settings(tmp_path / "x.safetensors", stage[1], json.dumps(said))
    _, adapter = read_lora(path, stage[1])
    (added,) = [x for x in products(adapter["unet"], stage[1]) if np.any(x)]
    np.testing.assert_allclose(added, np.full(shape, 8 / 2 * 2.0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ('{"unet.use_rslora": true}', "was trained with use_rslora True; only files whose"),
        ('{"unet.alpha_pattern": {"to_q": 3}}', "was trained with alpha_pattern {'to_q': 3}"),
        ('{"unet.lora_alpha": "8"}', "has lora_alpha '8'; it must be a number"),
        ("[", "lora_adapter_metadata of .* is not JSON"),
    ],
)
def test_pefts_settings_that_are_not_followed_are_refused(stage, settings, says, tmp_path):
    _, path = with_settings(tmp_path / "x.safetensors", stage[1], settings)
    with pytest.raises(UsageError, match=says):
        read_lora(path, stage[1])


def test_an_alpha_of_several_numbers_is_one_sentence(stage, tmp_path):
    module, shape = a_query(stage[1])
    pair = {
        f"unet.{module}.lora_A.weight": np.ones((2, shape[0]), np.float32),
        f"unet.{module}.lora_B.weight": np.ones((shape[1], 2), np.float32),
        f"unet.{module}.alpha": np.ones(2, np.float32),
    }
    with pytest.raises(UsageError, match=r"to_q has an alpha of \(2,\); it is a number"):
        read_lora(write(tmp_path / "x.safetensors", pair), stage[1])


def a_query(params):
    """diffusers' name of the first query, and the shape of our kernel."""
    kernel = flatten_dict(params)["middle", "attention", "query", "kernel"]
    return "mid_block.attentions.0.to_q", kernel.shape


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("unet.conv_in.lora_A.weight", (2, 3), "has factors of"),
        ("unet.mid_block.attentions.0.to_q.lora_A.weight", (2, 3), "has factors of"),
        ("unet.somewhere.weight", (2, 3), "is no factor of a LoRA"),
        ("text_encoder.x.lora_A.weight", (2, 3), "has factors of"),
    ],
)
def test_what_is_no_adapter_of_the_network_is_one_sentence(stage, tmp_path, name, shape, says):
    path = write(tmp_path / "x.safetensors", {name: np.zeros(shape, np.float32)})
    with pytest.raises(UsageError, match=says):
        read_lora(path, stage[1])


def test_an_adapter_of_another_width_is_one_sentence(stage, tmp_path):
    module, shape = a_query(stage[1])
    pair = {
        f"unet.{module}.lora.down.weight": np.zeros((2, shape[0] + 1), np.float32),
        f"unet.{module}.lora.up.weight": np.zeros((shape[1], 2), np.float32),
    }
    with pytest.raises(UsageError, match="make a matrix of"):
        read_lora(write(tmp_path / "x.safetensors", pair), stage[1])


def test_a_module_that_is_no_attention_is_named(stage, tmp_path):
    pair = {
        "unet.conv_in.lora.down.weight": np.zeros((2, 3), np.float32),
        "unet.conv_in.lora.up.weight": np.zeros((8, 2), np.float32),
    }
    with pytest.raises(UsageError, match="by conv_in"):
        read_lora(write(tmp_path / "x.safetensors", pair), stage[1])


def test_a_convolution_cannot_be_written():
    kernel = {"down": np.zeros((3, 3, 4, 2)), "up": np.zeros((2, 4))}
    adapter = {"unet": {"middle": {"block_1": {"conv_1": {"kernel": kernel}}}}}
    with pytest.raises(UsageError, match=r"unet\.middle\.block_1\.conv_1\.kernel"):
        lora_tensors(adapter, 1.0)
