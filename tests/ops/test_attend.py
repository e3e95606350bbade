"""Attention against a softmax in numpy, in parts, over devices, and in the form of one CPU."""

import in_numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from in_numpy import normal
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax.config import MeshConfig
from imagen_jax.models.blocks import run_blocks
from imagen_jax.ops import attend
from imagen_jax.parallel import mesh as meshes

MASK = np.array([[True, True, False, False], [True, True, True, True]])


def as_jax(*arrays):
    return tuple(jnp.asarray(x) for x in arrays)


def test_attend_is_its_equation():
    queries, keys, values = (
        normal(2, 5, 3, 4),
        normal(2, 4, 3, 4, seed=1),
        normal(2, 4, 3, 4, seed=2),
    )
    result = attend(*as_jax(queries, keys, values, MASK))
    expected = in_numpy.attend(queries, keys, values, MASK)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("device_count")
@pytest.mark.parametrize("count", [257, 262, 288, 512, 1025, 1536])
def test_many_queries_give_what_a_few_at_a_time_give(count):
    """Values and gradients do not tell of parts, whether these divide the queries or not."""
    mask = jnp.asarray(MASK)
    queries, keys, values = normal(2, count, 3, 4), normal(2, 4, 3, 4), normal(2, 4, 3, 4, seed=1)
    expected = in_numpy.attend(queries, keys, values, MASK)
    arrays = as_jax(queries, keys, values)
    np.testing.assert_allclose(jax.jit(attend)(*arrays, mask), expected, rtol=1e-5, atol=1e-5)

    def in_parts(queries, keys, values):
        parts = jnp.split(queries, list(range(200, count, 200)), axis=1)
        return jnp.concatenate([attend(part, keys, values, mask) for part in parts], axis=1)

    def gradients(function):
        return jax.jit(jax.grad(lambda arrays: jnp.sum(function(*arrays) ** 3)))(arrays)

    expected = gradients(in_parts)
    result = gradients(lambda *arrays: attend(*arrays, mask))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), result, expected
    )


@pytest.mark.usefixtures("device_count")
@pytest.mark.parametrize("count", [1024, 2048])
def test_the_weights_of_many_queries_are_not_kept_for_the_backward_pass(count):
    queries, keys = jnp.ones((2, count, 3, 4)), jnp.ones((2, 64, 3, 4))
    mask = jnp.ones((2, 64), bool)
    gradient = jax.jit(jax.grad(lambda *arrays: jnp.sum(attend(*arrays, mask)), argnums=(0, 1, 2)))
    memory = gradient.lower(queries, keys, keys).compile().memory_analysis()
    weights = 4 * 2 * 3 * count * 64
    assert memory.temp_size_in_bytes < weights


@pytest.mark.usefixtures("device_count")
def test_gradients_in_bfloat16_are_those_in_float32():
    arrays = as_jax(normal(2, 512, 3, 4), normal(2, 4, 3, 4, seed=1), normal(2, 4, 3, 4, seed=2))
    loss = lambda arrays: jnp.sum(attend(*arrays, jnp.asarray(MASK)) ** 2)  # noqa: E731
    gradients = jax.jit(jax.grad(loss))
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), arrays)
    expected = gradients(jax.tree.map(lambda x: x.astype(jnp.float32), rounded))
    for result, right in zip(gradients(rounded), expected, strict=True):
        assert result.dtype == jnp.bfloat16
        scale = np.abs(right).max()
        np.testing.assert_allclose(result.astype(jnp.float32) / scale, right / scale, atol=0.02)


@pytest.mark.usefixtures("device_count")
def test_selective_remat_keeps_nothing_of_one_platform_alone():
    """What the code of CPUs would keep, programs of TPUs would keep room for."""
    arrays = jnp.ones((2, 512, 3, 4)), jnp.ones((2, 64, 3, 4)), jnp.ones((2, 64, 3, 4))
    mask = jnp.ones((2, 64), bool)

    def kept(remat):
        call = lambda _, arrays, factor: attend(*(factor * x for x in arrays), mask)  # noqa: E731
        run = lambda arrays: run_blocks([nnx.Module()], arrays, [2.0], call, remat=remat)  # noqa: E731
        backward = jax.eval_shape(lambda arrays: jax.vjp(run, arrays)[1], arrays)
        return sorted(x.shape for x in jax.tree.leaves(backward))

    assert kept("selective") == kept("full")


@pytest.mark.parametrize("platform, heads_at_a_time", [("cpu", 1), ("tpu", 3), ("cuda", 3)])
def test_one_cpu_takes_one_head_of_a_picture_at_a_time(monkeypatch, platform, heads_at_a_time):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    queries, keys = jnp.ones((2, 512, 3, 4)), jnp.ones((2, 64, 3, 4))
    traced = jax.jit(attend).trace(queries, keys, keys, jnp.ones((2, 64), bool))
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    weights = {1: "tensor<512x64xf32>", 3: "tensor<2x3x256x64xf32>"}
    for heads, shape in weights.items():
        assert (shape in program) == (heads == heads_at_a_time)


def test_the_queries_of_a_picture_stay_on_the_devices_that_have_its_rows():
    mesh = meshes.make_mesh(MeshConfig(spatial=4))
    rows = NamedSharding(mesh, PartitionSpec("fsdp", "spatial"))
    whole = NamedSharding(mesh, PartitionSpec("fsdp"))
    queries = jax.device_put(normal(2, 512, 3, 4), rows)
    keys, values, mask = jax.device_put((normal(2, 4, 3, 4), normal(2, 4, 3, 4), MASK), whole)
    compiled = jax.jit(attend, out_shardings=rows).lower(queries, keys, values, mask).compile()
    assert "while(" in compiled.as_text()
    for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert name not in compiled.as_text()
    expected = attend(*as_jax(np.asarray(queries), np.asarray(keys), np.asarray(values), MASK))
    np.testing.assert_allclose(compiled(queries, keys, values, mask), expected, atol=1e-6)


@pytest.mark.usefixtures("device_count")
@pytest.mark.parametrize("count", [65, 512])
def test_the_softmax_is_float32_in_bfloat16(count):
    """Of two keys the second's weight is a sigmoid, rounded once and that at the end."""
    logits = jnp.linspace(-4.0, 4.0, count).astype(jnp.bfloat16)
    zero_one = jnp.array([0.0, 1.0], jnp.bfloat16)[None, :, None, None]
    result = attend(logits[None, :, None, None], zero_one, zero_one, jnp.ones((1, 2), bool))
    assert result.dtype == jnp.bfloat16
    expected = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    np.testing.assert_array_equal(result[0, :, 0], expected.astype(jnp.bfloat16))


def test_masked_keys_have_no_influence_and_real_ones_do():
    queries, keys, values = (
        normal(2, 5, 3, 4),
        normal(2, 4, 3, 4, seed=1),
        normal(2, 4, 3, 4, seed=2),
    )
    result = np.asarray(attend(*as_jax(queries, keys, values, MASK)))
    garbage = np.where(MASK[:, :, None, None], 0, 1e4).astype(np.float32)
    masked = attend(*as_jax(queries, keys + garbage, values + garbage, MASK))
    np.testing.assert_array_equal(masked, result)
    unmasked = attend(*as_jax(queries, keys + garbage, values + garbage, np.ones_like(MASK)))
    assert not np.allclose(unmasked[0], result[0])
