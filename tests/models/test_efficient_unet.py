"""The Efficient U-Net: size, zero start, inputs, and freedom from one size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from paper_counts import blocks, conv, embeddings
from test_unet import inputs

from imagen_jax.config import EfficientUNetConfig
from imagen_jax.models.efficient_unet import EfficientUNet
from imagen_jax.stage import build_networks, init_params

CONFIG = tiny.super_resolution()


@pytest.mark.parametrize("self_attention", [True, False], ids=["64to256", "256to1024"])
def test_the_papers_stages_have_as_many_parameters_as_their_description(self_attention):
    """Appendix F.2 and F.3; the second has no self-attention."""
    text, channels = 512, (128, 256, 512, 1024)
    config = EfficientUNetConfig(self_attention=(False, False, False, self_attention))
    make = lambda: EfficientUNet(config, text_width=text, low_res=True, rngs=nnx.Rngs(0))  # noqa: E731
    shapes = nnx.state(nnx.eval_shape(make), nnx.Param)
    ends = conv(3, 6, 128) + 2 * 128 + conv(3, 128, 3)
    expected = embeddings(128, text, scalars=2) + ends
    expected += blocks(channels, (2, 4, 8, 8), text, self_attention)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


def test_starts_as_zero_and_gives_float32_from_bfloat16():
    config = tiny.super_resolution(
        unet={"dtype": "bfloat16"}, text_encoder={"train": False, "source": "none"}
    )
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    run = predictor(config)
    start = run(params, **inputs(config))
    assert start.dtype == jnp.float32
    assert not np.any(start)
    later = run({"unet": tiny.random_params(config)["unet"]}, **inputs(config))
    assert np.all(np.isfinite(later)) and np.any(later)


def predictor(config):
    networks = build_networks(config)

    @jax.jit
    def run(params, z, log_snr, text, mask, low_res, aug_level):
        state = networks.encode_text(params, text, mask)
        return networks.predict(params, z, log_snr, state, low_res=low_res, aug_level=aug_level)

    return run


@pytest.fixture(scope="module")
def model():
    """(batch) -> prediction of a U-Net without self-attention."""
    run, params = predictor(CONFIG), tiny.random_params(CONFIG)
    return lambda batch: np.asarray(run(params, **batch))


@pytest.mark.parametrize("name", ["z", "log_snr", "text", "low_res", "aug_level"])
def test_every_input_of_a_picture_changes_its_prediction_and_no_other(model, name):
    batch = inputs(CONFIG)
    changed = {**batch, name: batch[name].copy()}
    changed[name][1] = 0.5 * np.flip(changed[name][1]) + 0.1
    before, after = model(batch), model(changed)
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max() > 1e-3


def test_padding_has_no_influence(model):
    batch = inputs(CONFIG)
    garbage = np.where(batch["mask"][:, :, None], 0, 100 * batch["text"][::-1])
    np.testing.assert_array_equal(model({**batch, "text": batch["text"] + garbage}), model(batch))


def sized(height, width):
    """A black picture of any size, and its black half-size one, without noise."""
    batch = inputs(CONFIG)
    batch["z"] = np.zeros((2, height, width, 3), np.float32)
    batch["low_res"] = np.zeros((2, height // 2, width // 2, 3), np.float32)
    return batch


def test_runs_on_sizes_that_it_was_not_built_for_and_moves_with_the_picture():
    """Convolutions see a blob the same wherever it is: shifted in, shifted out.

    12 pixels is how far a pixel reaches through this U-Net, so a border of 12 stays apart.
    """
    run, params = predictor(CONFIG), tiny.random_params(CONFIG)
    here, there = sized(64, 96), sized(64, 96)
    blob = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
    here["z"][:, 30:34, 30:34] = blob
    there["z"][:, 30:34, 56:60] = blob
    one, other = (np.asarray(run(params, **batch)) for batch in (here, there))
    assert one.shape == here["z"].shape
    assert np.abs(one[:, 30:34, 30:34] - one[:, 30:34, 56:60]).max() > 1e-2
    window = slice(14, 50)
    np.testing.assert_allclose(other[:, window, 40:76], one[:, window, 14:50], rtol=1e-4, atol=1e-4)
