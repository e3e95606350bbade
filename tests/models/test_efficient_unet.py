"""The Efficient U-Net: its start, inputs, and freedom from one size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from imagen_jax.conditions import Conditions
from imagen_jax.config import NetworkInputs
from imagen_jax.models.blocks import as_they_are
from imagen_jax.models.efficient_unet import EfficientUNet
from imagen_jax.networks import init_params
from imagen_jax.ops import upsample

CONFIG = tiny.super_resolution()


@pytest.mark.slow
def test_starts_as_its_outer_convolutions_with_scaled_skips():
    """Residual blocks and attention begin as the identity."""
    config = tiny.replace(
        tiny.EFFICIENT_UNET, channels=(4, 8), num_res_blocks=(1, 1), strides=(2, 2),
        self_attention=(False, False), text_attention=(False, True),
    )  # fmt: skip
    unet = EfficientUNet(config, NetworkInputs(text_width=6), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 8, 8, 4)).astype(np.float32))
    conditions = Conditions(text=jnp.ones((1, 3, 6)), mask=jnp.ones((1, 3), bool))
    text = unet.encode(conditions).text
    inner = unet.down[0].conv(x)
    middle = upsample(unet.down[1].conv(inner))
    up = unet.up[0].conv(middle) + inner / 2**0.5
    expected = unet.up[1].conv(upsample(up)) + x / 2**0.5
    result = unet.trunk(x, jnp.ones((1, 16)), text, as_they_are)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_starts_as_zero_and_gives_nearly_the_same_from_bfloat16(model):
    config = tiny.replace(CONFIG, unet={"dtype": "bfloat16"})
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    run, batch = tiny.predictor(config), tiny.inputs(config)
    start = run(params, **batch)
    assert start.dtype == jnp.float32
    assert not np.any(start)
    expected = model(batch)
    difference = np.abs(run(tiny.random_params(config), **batch) - expected)
    assert 1e-4 < difference.max() / expected.std() < 0.1


@pytest.fixture(scope="module")
def model():
    """(batch) -> prediction of a U-Net without self-attention."""
    run, params = tiny.predictor(CONFIG), tiny.random_params(CONFIG)
    return lambda batch: np.asarray(run(params, **batch))


@pytest.mark.parametrize("name", ["z", "log_snr", "text", "low_res", "aug_level"])
def test_every_input_of_a_picture_changes_its_prediction_and_no_other(model, name):
    batch = tiny.inputs(CONFIG)
    changed = {**batch, name: batch[name].copy()}
    changed[name][1] = 0.5 * np.flip(changed[name][1]) + 0.1
    before, after = model(batch), model(changed)
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max() > 1e-3


def test_padding_has_no_influence(model):
    batch = tiny.inputs(CONFIG)
    garbage = np.where(batch["mask"][:, :, None], 0, 100 * batch["text"][::-1])
    np.testing.assert_array_equal(model({**batch, "text": batch["text"] + garbage}), model(batch))


def sized(height, width):
    """A black picture of any size, and its black half-size one, without noise."""
    batch = tiny.inputs(CONFIG)
    batch["z"] = np.zeros((2, height, width, 3), np.float32)
    batch["low_res"] = np.zeros((2, height // 2, width // 2, 3), np.float32)
    return batch


def test_runs_on_sizes_that_it_was_not_built_for_and_moves_with_the_picture():
    """Convolutions see a blob the same wherever it is: shifted in, shifted out.

    It is a bright one: where a picture hardly varies, norms magnify rounding.
    12 pixels is how far a pixel reaches through this U-Net, so a border of 12 stays apart.
    """
    run, params = tiny.predictor(CONFIG), tiny.random_params(CONFIG)
    here, there = sized(64, 96), sized(64, 96)
    blob = 4 * np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
    here["z"][:, 30:34, 30:34] = blob
    there["z"][:, 30:34, 56:60] = blob
    one, other = (np.asarray(run(params, **batch)) for batch in (here, there))
    assert one.shape == here["z"].shape
    assert np.abs(one[:, 30:34, 30:34] - one[:, 30:34, 56:60]).max() > 1e-2
    window = slice(14, 50)
    np.testing.assert_allclose(other[:, window, 40:76], one[:, window, 14:50], rtol=1e-4, atol=1e-4)
