"""The layers of both U-Nets against numpy written from their equations."""

import math

import in_numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from in_numpy import normal

from imagen_jax.models import layers
from imagen_jax.models.layers import Conditioning, Conv, GroupNorm, ResBlock, ScalarEmbedding
from imagen_jax.ops.resampling import downsample, upsample


def test_a_small_picture_is_interpolated_between_pixel_centres():
    """Two ramps, one along each axis."""
    z, (rows, columns) = normal(2, 8, 8, 3), np.mgrid[:4, :4].astype(np.float32)
    low_res = np.broadcast_to(np.stack([columns, rows], -1), (2, 4, 4, 2))
    large = np.asarray(layers.at_size_of(jnp.asarray(z), jnp.asarray(low_res)))
    ramp = np.broadcast_to([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], (2, 8, 8))
    np.testing.assert_allclose(large[..., 0], ramp, atol=1e-6)
    np.testing.assert_allclose(large[..., 1], ramp.swapaxes(1, 2), atol=1e-6)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (6, 2), (3, 1)])
def test_group_norm_is_its_equation(channels, groups):
    norm = GroupNorm(channels, rngs=nnx.Rngs(0))
    assert norm.groups == groups
    norm.scale[...], norm.bias[...] = normal(channels, seed=1), normal(channels, seed=2)
    x = 3 * normal(2, 4, 5, channels) + 5
    expected = in_numpy.group_norm(x, groups) * norm.scale[...] + norm.bias[...]
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=2e-4, atol=2e-4)


def test_fewer_groups_keep_the_level_of_a_flat_channel():
    """A group of one channel forgets its mean; a group of several keeps how they compare."""
    x = jnp.broadcast_to(jnp.asarray([1.0, 2.0, 4.0, 8.0]), (1, 4, 4, 4))
    alone = GroupNorm(4, groups=4, rngs=nnx.Rngs(0))(x)
    together = GroupNorm(4, groups=1, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(alone, 0.0, atol=1e-3)
    assert np.all(np.diff(together[0, 0, 0]) > 0.3)


def test_group_norm_equals_flax():
    x = jnp.asarray(normal(2, 4, 4, 64))
    flax_norm = nnx.GroupNorm(64, num_groups=32, epsilon=1e-5, rngs=nnx.Rngs(0))
    ours = GroupNorm(64, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(ours, flax_norm(x), rtol=1e-5, atol=1e-5)


def test_group_norm_scales_and_shifts_after_its_own_affine_map():
    norm = GroupNorm(8, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = normal(8, seed=1), normal(8, seed=2)
    x, scale, shift = normal(2, 4, 4, 8), normal(2, 8, seed=3), normal(2, 8, seed=4)
    plain = np.asarray(norm(jnp.asarray(x)))
    expected = plain * (1 + scale[:, None, None]) + shift[:, None, None]
    moved = norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(shift))
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4)


def test_group_norm_applies_an_activation_last():
    norm = GroupNorm(8, rngs=nnx.Rngs(0))
    x, scale, shift = (jnp.asarray(normal(*shape)) for shape in [(2, 4, 4, 8), (2, 8), (2, 8)])
    expected = np.sin(np.asarray(norm(x, scale, shift)))
    np.testing.assert_allclose(norm(x, scale, shift, jnp.sin), expected, rtol=1e-6, atol=1e-6)


def test_group_norm_statistics_are_float32_in_bfloat16():
    """A mean of 1 + 1/512 over bfloat16 pixels of 1 and 1.5 is lost by bfloat16 sums."""
    x = jnp.where(jnp.asarray(normal(1, 32, 32, 8)) > 2, 1.5, 1.0).astype(jnp.bfloat16)
    norm = GroupNorm(8, rngs=nnx.Rngs(0))
    result = norm(x)
    assert result.dtype == jnp.bfloat16
    expected = in_numpy.group_norm(np.asarray(x, np.float32), 8)
    np.testing.assert_allclose(np.asarray(result, np.float32), expected, rtol=1e-2, atol=1e-2)


def test_the_convolution_is_that_of_flax():
    ours, theirs = (
        layer(3, 4, (3, 3), strides=2, padding="SAME", rngs=nnx.Rngs(0))
        for layer in (Conv, nnx.Conv)
    )
    x = jnp.asarray(normal(2, 6, 6, 3))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    half = Conv(3, 4, (3, 3), dtype="bfloat16", rngs=nnx.Rngs(0))
    assert half(x).dtype == jnp.bfloat16


def test_gelu_is_x_times_the_normal_distribution_in_either_dtype():
    x = np.linspace(-8, 8, 4001).astype(np.float32)
    exact = lambda x: x * np.vectorize(math.erfc)(-x.astype(float) / math.sqrt(2)) / 2  # noqa: E731
    np.testing.assert_allclose(layers.exact_gelu(jnp.asarray(x)), exact(x), atol=2e-6)
    half = jnp.asarray(x, jnp.bfloat16)
    result = layers.exact_gelu(half)
    assert result.dtype == jnp.bfloat16
    # Half a unit in the last of eight digits.
    np.testing.assert_allclose(
        result.astype(np.float32), exact(np.asarray(half, np.float32)), rtol=2**-8, atol=2e-6
    )


def test_sinusoid_has_frequencies_from_one_to_1e_minus_4():
    x = np.array([0.0, 0.3, 1.0], np.float32)
    table = np.asarray(layers.sinusoid(jnp.asarray(x), 8))
    angles = 1000 * x[:, None] * 10.0 ** (-4 * np.arange(4) / 3)[None]
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    np.testing.assert_allclose(table, expected, atol=1e-3)


def test_scalar_embedding_is_dense_swish_dense():
    module = ScalarEmbedding(8, 12, dtype="float32", rngs=nnx.Rngs(0))
    table = layers.sinusoid(jnp.array([0.1, 0.7]), 8)
    hidden = np.asarray(table @ module.dense_1.kernel[...])
    hidden = hidden / (1 + np.exp(-hidden))
    expected = hidden @ np.asarray(module.dense_2.kernel[...])
    np.testing.assert_allclose(module(jnp.array([0.1, 0.7])), expected, rtol=1e-4, atol=1e-5)


def test_conditioning_embeds_the_time_itself_and_adds_text_and_aug_level():
    """Of the cosine schedule, whose log-SNR is -2 log tan(pi t / 2)."""
    module = Conditioning(8, 12, levels=["aug_level"], dtype="float32", rngs=nnx.Rngs(0))
    t, level, text = np.array([0.05, 0.4, 0.9]), jnp.array([0.2, 0.0, 1.0]), normal(3, 12)
    expected = module.time(jnp.float32(t)) + module.aug_level(level) + text
    log_snr = jnp.float32(-2 * np.log(np.tan(np.pi / 2 * t)))
    result = module(log_snr, jnp.asarray(text), {"aug_level": level})
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def numpy_conv(x, conv):
    """Same-padded, stride 1: every tap sees the picture shifted."""
    kernel = np.asarray(conv.kernel[...])
    side = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    out = np.asarray(conv.bias[...])
    for row, column in np.ndindex(kernel.shape[:2]):
        window = padded[:, row : row + x.shape[1], column : column + x.shape[2]]
        out = out + window @ kernel[row, column]
    return out


def silu(x):
    return x / (1 + np.exp(-x))


def test_res_block_is_its_equation():
    """Norm, swish, convolution twice; the embedding scales and shifts the second norm."""
    block = ResBlock(4, 6, 5, dtype="float32", rngs=nnx.Rngs(0))
    state, rng = nnx.state(block, nnx.Param), np.random.default_rng(5)
    move = lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32)  # noqa: E731
    nnx.update(block, jax.tree.map(move, state))
    x, embedding = normal(2, 4, 3, 4), normal(2, 5, seed=1)

    def normed(norm, x, groups):
        return in_numpy.group_norm(x, groups) * norm.scale[...] + norm.bias[...]

    dense = block.embedding
    scale_shift = silu(embedding) @ dense.kernel[...] + dense.bias[...]
    scale, shift = (np.asarray(part)[:, None, None] for part in np.split(scale_shift, 2, axis=-1))
    h = numpy_conv(silu(normed(block.norm_1, x, 4)), block.conv_1)
    h = silu(normed(block.norm_2, h, 2) * (1 + scale) + shift)
    expected = numpy_conv(h, block.conv_2) + numpy_conv(x, block.shortcut)
    result = block(jnp.asarray(x), jnp.asarray(embedding))
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resample", [None, "down", "up"])
def test_res_block_starts_as_its_shortcut(resample):
    """The zero-initialised last convolution leaves the (resampled) input."""
    block = ResBlock(8, 8, 12, resample=resample, dtype="float32", rngs=nnx.Rngs(0))
    x = jnp.asarray(normal(2, 4, 4, 8))
    expected = {None: lambda x: x, "down": downsample, "up": upsample}[resample](x)
    np.testing.assert_array_equal(block(x, jnp.asarray(normal(2, 12))), expected)
