"""The base U-Net: zero start, and what each of its inputs must and must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from imagen_jax.config import UNetConfig
from imagen_jax.networks import build_networks, init_params

# Two levels, the lower one attends; a low-resolution input, so that all paths are there.
CONFIG = tiny.stage(
    low_resolution=8,
    unet=UNetConfig(
        embed_dim=8, channel_mult=(1, 2), num_res_blocks=(1, 1), attention_resolutions=(8,),
        head_dim=8,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    """(batch) -> prediction, compiled once, and the batch."""
    run, params = tiny.predictor(CONFIG), tiny.random_params(CONFIG)
    return (lambda batch: np.asarray(run(params, **batch))), tiny.inputs(CONFIG)


@pytest.mark.slow
def test_starts_as_zero_and_gives_nearly_the_same_from_bfloat16(model):
    """Float32 from float32 parameters; what is computed between them is rounded to 8 bits."""
    config = tiny.replace(CONFIG, unet={"dtype": "bfloat16"})
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    run, (exact, batch) = tiny.predictor(config), model
    start = run(params, **batch)
    assert start.dtype == jnp.float32 and start.shape == batch["z"].shape
    assert not np.any(start)
    expected = exact(batch)
    difference = np.abs(run(tiny.random_params(config), **batch) - expected)
    assert 1e-4 < difference.max() / expected.std() < 0.1


@pytest.mark.parametrize("name", ["z", "log_snr", "text", "low_res", "aug_level"])
def test_every_input_of_a_picture_changes_its_prediction_and_no_other(model, name):
    run, batch = model
    changed = {**batch, name: batch[name].copy()}
    changed[name][1] = 0.5 * np.flip(changed[name][1]) + 0.1
    before, after = run(batch), run(changed)
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max() > 1e-3


def test_padding_has_no_influence(model):
    """Whatever stands in masked tokens; unmasked, the same tokens do matter."""
    run, batch = model
    garbage = np.where(batch["mask"][:, :, None], 0, 100 * batch["text"][::-1])
    changed = {**batch, "text": batch["text"] + garbage}
    np.testing.assert_array_equal(run(changed), run(batch))
    every = np.ones_like(batch["mask"])
    assert not np.allclose(run({**changed, "mask": every})[0], run(batch)[0], atol=1e-3)


@pytest.mark.slow
def test_what_is_encoded_once_serves_every_step(model):
    """The state crosses a jit border and gives what encoding inside gives."""
    run, batch = model
    networks, params = build_networks(CONFIG), tiny.random_params(CONFIG)
    encoded = jax.jit(networks.encode)(params, tiny.conditions(batch))
    outside = jax.jit(networks.predict)(params, batch["z"], batch["log_snr"], encoded).value
    np.testing.assert_allclose(outside, run(batch), rtol=1e-5, atol=1e-5)
