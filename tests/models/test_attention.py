"""Attention against a softmax in numpy, and what the mask must do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax.config import MeshConfig
from imagen_jax.models.attention import AttentionPooling, ImageAttention, attend
from imagen_jax.models.blocks import run_blocks
from imagen_jax.parallel import mesh as meshes

TEXT_WIDTH = 12
MASK = np.array([[True, True, False, False], [True, True, True, True]])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy_attend(queries, keys, values, mask):
    """softmax(q k^T / sqrt(d)) v for each picture and head, masked keys left out of the sums."""
    batch, count, heads, width = queries.shape
    out = np.zeros((batch, count, heads, width))
    for b, h in np.ndindex(batch, heads):
        real = mask[b]
        logits = queries[b, :, h] @ keys[b, real, h].T / np.sqrt(width)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[b, :, h] = weights @ values[b, real, h]
    return out.reshape(batch, count, heads * width)


def dense(layer, x):
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def randomised(module):
    """Zero-initialised layers would hide everything else."""
    state = nnx.state(module, nnx.Param)
    rng = np.random.default_rng(5)
    move = lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32)  # noqa: E731
    pure = nnx.to_pure_dict(state)
    for layer, parameters in pure.items():
        if "norm" not in layer:
            pure[layer] = {name: move(x) for name, x in parameters.items()}
    nnx.replace_by_pure_dict(state, pure)
    nnx.update(module, state)
    return module


def image_attention(self_attention):
    return ImageAttention(
        8, text_width=TEXT_WIDTH, num_heads=2, head_dim=6,
        self_attention=self_attention, dtype="float32", rngs=nnx.Rngs(0),
    )  # fmt: skip


def as_jax(*arrays):
    return tuple(jnp.asarray(x) for x in arrays)


def test_attend_is_its_equation():
    queries, keys, values = (
        normal(2, 5, 3, 4),
        normal(2, 4, 3, 4, seed=1),
        normal(2, 4, 3, 4, seed=2),
    )
    result = attend(*as_jax(queries, keys, values, MASK))
    expected = numpy_attend(queries, keys, values, MASK)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("device_count")
@pytest.mark.parametrize("count", [257, 262, 288, 512, 1025, 1536])
def test_many_queries_give_what_a_few_at_a_time_give(count):
    """Values and gradients do not tell of parts, whether these divide the queries or not."""
    mask = jnp.asarray(MASK)
    queries, keys, values = normal(2, count, 3, 4), normal(2, 4, 3, 4), normal(2, 4, 3, 4, seed=1)
    expected = numpy_attend(queries, keys, values, MASK)
    arrays = as_jax(queries, keys, values)
    np.testing.assert_allclose(attend(*arrays, mask), expected, rtol=1e-5, atol=1e-5)

    def in_parts(queries, keys, values):
        parts = jnp.split(queries, list(range(200, count, 200)), axis=1)
        return jnp.concatenate([attend(part, keys, values, mask) for part in parts], axis=1)

    def gradients(function):
        return jax.grad(lambda arrays: jnp.sum(function(*arrays) ** 3))(arrays)

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
    gradients = jax.grad(lambda arrays: jnp.sum(attend(*arrays, jnp.asarray(MASK)) ** 2))
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


@pytest.mark.parametrize("self_attention", [False, True])
def test_image_attention_is_its_equation(self_attention):
    """Layer-normalised text gives keys and values; with self-attention the picture's follow."""
    module = randomised(image_attention(self_attention))
    x, text = normal(2, 2, 3, 8), normal(2, 4, TEXT_WIDTH, seed=1)
    (jax_x, jax_text, jax_mask) = as_jax(x, text, MASK)
    result = module(jax_x, module.text_keys_values(jax_text), jax_mask)
    positions = np.asarray(module.norm(jax_x)).reshape(2, 6, 8)
    pairs = dense(module.text_key_value, layer_norm(text))
    mask = MASK
    if self_attention:
        pairs = np.concatenate([pairs, dense(module.key_value, positions)], axis=1)
        mask = np.concatenate([mask, np.ones((2, 6), bool)], axis=1)
    keys, values = np.split(pairs, 2, axis=-1)
    heads = lambda x: x.reshape(2, -1, 2, 6)  # noqa: E731
    attended = numpy_attend(heads(dense(module.query, positions)), heads(keys), heads(values), mask)
    expected = x + dense(module.out, attended).reshape(x.shape)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_image_attention_starts_as_the_identity():
    module = image_attention(self_attention=True)
    x, text, mask = as_jax(normal(2, 2, 3, 8), normal(2, 4, TEXT_WIDTH), MASK)
    np.testing.assert_array_equal(module(x, module.text_keys_values(text), mask), x)


def test_pooling_lets_the_mean_of_the_real_tokens_attend_over_them():
    module = AttentionPooling(TEXT_WIDTH, 10, head_dim=6, dtype="float32", rngs=nnx.Rngs(0))
    module = randomised(module)
    text = normal(2, 4, TEXT_WIDTH)
    normed = layer_norm(text)
    mean = np.stack(
        [row[real].mean(0, keepdims=True) for row, real in zip(normed, MASK, strict=True)]
    )
    keys, values = np.split(dense(module.key_value, normed), 2, axis=-1)
    heads = lambda x: x.reshape(2, -1, 2, 6)  # noqa: E731
    attended = numpy_attend(heads(dense(module.query, mean)), heads(keys), heads(values), MASK)
    expected = dense(module.out, attended[:, 0])
    np.testing.assert_allclose(module(*as_jax(text, MASK)), expected, rtol=1e-4, atol=1e-4)
