"""Pictures of another size against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.ops import resampling


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_space_to_depth_puts_a_patch_on_the_channels():
    x = normal(2, 4, 6, 3)
    patches = np.asarray(resampling.space_to_depth(jnp.asarray(x), 2))
    assert patches.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(patches[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_depth_to_space_inverts_space_to_depth(patch):
    x = jnp.asarray(normal(2, 8, 4, 3))
    back = resampling.depth_to_space(resampling.space_to_depth(x, patch), patch)
    np.testing.assert_array_equal(back, x)


def test_upsample_repeats_pixels_and_downsample_averages_squares():
    x = normal(2, 4, 6, 3)
    up = np.asarray(resampling.upsample(jnp.asarray(x)))
    np.testing.assert_array_equal(up, x.repeat(2, axis=1).repeat(2, axis=2))
    down = np.asarray(resampling.downsample(jnp.asarray(x)))
    expected = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(down, expected, rtol=1e-6, atol=1e-6)
