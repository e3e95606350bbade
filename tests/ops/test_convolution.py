"""The written gradients against those that JAX derives, and where each of the two runs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax.config import MeshConfig
from imagen_jax.ops import convolve, convolve_upsampled
from imagen_jax.parallel import mesh as meshes


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def plain(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def gradients(function, stride=1):
    """(x, kernel) -> gradients of a sum that weighs every result differently."""

    def loss(x, kernel):
        y = function(x, kernel, stride)
        return jnp.sum(y * jnp.sin(jnp.arange(y.size)).reshape(y.shape))

    return jax.jit(jax.grad(loss, argnums=(0, 1)))


def assert_close(results, expected, tolerance=1e-4):
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype
        np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("device_count")
@pytest.mark.parametrize(
    ("height", "width", "taps", "stride", "outputs"),
    [(6, 5, 3, 1, 4), (1, 2, 3, 1, 4), (6, 5, 3, 2, 4), (7, 8, 3, 2, 4), (6, 5, 1, 1, 4),
     (6, 5, 1, 1, 2), (6, 5, 1, 2, 4), (8, 7, 4, 2, 4), (6, 5, 4, 1, 4), (4, 4, 3, 1, 70)],
)  # fmt: skip
def test_the_gradients_are_those_that_jax_derives(height, width, taps, stride, outputs):
    x, kernel = normal(2, height, width, 3), normal(taps, taps, 3, outputs, seed=1)
    np.testing.assert_array_equal(convolve(x, kernel, stride), plain(x, kernel, stride))
    assert_close(gradients(convolve, stride)(x, kernel), gradients(plain, stride)(x, kernel))


def test_the_gradients_of_a_loop_that_computes_again_are_the_same():
    """As blocks run: scanned over their kernels, with the forward pass repeated."""
    x, kernels = normal(2, 5, 5, 3), normal(2, 3, 3, 3, 3, seed=1)

    def gradient(function):
        body = jax.checkpoint(lambda x, kernel: (jnp.tanh(function(x, kernel, 1)), None))
        loss = lambda x, kernels: jnp.sum(jax.lax.scan(body, x, kernels)[0] ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernels)

    assert_close(gradient(convolve), gradient(plain))


@pytest.mark.usefixtures("device_count")
def test_sums_are_float32_in_bfloat16():
    """2048 ones: beyond 256 a sum that is bfloat16 itself no longer grows."""
    x, kernel = jnp.ones((2, 32, 32, 1), jnp.bfloat16), jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    loss = lambda x, kernel: jnp.sum(convolve(x, kernel, 1))  # noqa: E731
    assert jax.grad(loss, argnums=1)(x, kernel)[0, 0, 0, 0] == 2048
    kernel = jnp.ones((3, 3, 1, 1), jnp.bfloat16)
    assert jax.grad(loss, argnums=1)(x, kernel)[1, 1, 0, 0] == 2048


def test_only_cpus_run_what_is_written():
    """All dimensions in the usual order there; elsewhere what JAX derives, where they are not."""
    traced = gradients(convolve).trace(normal(2, 4, 4, 3), normal(3, 3, 3, 5, seed=1))

    def orders(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return re.findall(r"stablehlo\.convolution.*dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text)

    usual = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert orders("cpu") == [usual] * 2
    for platform in ("tpu", "cuda"):
        derived = orders(platform)
        assert len(derived) == 2 and usual not in derived


def of_repeated(x, kernel, stride=1):
    return plain(x.repeat(2, 1).repeat(2, 2), kernel, stride)


@pytest.mark.usefixtures("device_count")
@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (1, 2)])
def test_an_upsampled_picture_is_convolved_as_if_pixels_were_repeated(height, width):
    x, kernel = normal(2, height, width, 3), normal(3, 3, 3, 4, seed=1)
    result = convolve_upsampled(x, kernel)
    np.testing.assert_allclose(result, of_repeated(x, kernel), rtol=1e-5, atol=1e-5)
    ours = gradients(lambda x, kernel, _: convolve_upsampled(x, kernel))
    assert_close(ours(x, kernel), gradients(of_repeated)(x, kernel))


@pytest.mark.usefixtures("device_count")
def test_taps_of_an_upsampled_picture_are_summed_in_float32():
    """256 + 1 + 1 + 1 is 256 in bfloat16."""
    kernel = jnp.asarray([[1, 1, 1], [1, 256, 1], [1, 1, 1]], jnp.bfloat16)[:, :, None, None]
    result = convolve_upsampled(jnp.ones((1, 1, 1, 1), jnp.bfloat16), kernel)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, jnp.full((1, 2, 2, 1), 259, jnp.bfloat16))


@pytest.mark.parametrize(("count", "platform", "taps"), [
    (1, "cpu", 2), (8, "cpu", 3), (1, "tpu", 3), (1, "cuda", 3),
])  # fmt: skip
def test_only_one_cpu_convolves_before_upsampling(count, platform, taps, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: count)
    function = jax.jit(lambda *inputs: convolve_upsampled(*inputs))  # No trace that JAX has kept.
    traced = function.trace(normal(2, 4, 4, 5), normal(3, 3, 5, 7, seed=1))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    kernels = re.findall(r"stablehlo\.convolution.*, tensor<(\d)x(\d)x5x\d+xf32>\)", text)
    assert kernels == [(str(taps), str(taps))]


@pytest.mark.parametrize(
    ("taps", "stride", "spatial"), [(3, 1, 1), (3, 2, 1), (1, 1, 1), (1, 1, 4)]
)
def test_over_devices_only_the_kernels_gradient_is_summed(taps, stride, spatial):
    mesh = meshes.make_mesh(MeshConfig(spatial=spatial))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "spatial"))
    x, kernel = normal(8, 8, 8, 3), normal(taps, taps, 3, 5, seed=1)
    loss = lambda x, kernel: jnp.sum(jnp.tanh(convolve(x, kernel, stride)))  # noqa: E731
    gradient = jax.jit(
        jax.grad(loss, argnums=(0, 1)), in_shardings=(rows, None), out_shardings=(rows, None)
    )
    text = gradient.lower(x, kernel).compile().as_text()
    for name in ("all-gather", "all-to-all", "collective-permute"):
        assert name not in text
    plainly = jax.grad(lambda *a: jnp.sum(jnp.tanh(plain(*a, stride))), argnums=(0, 1))
    assert_close(gradient(x, kernel), jax.jit(plainly)(x, kernel))
