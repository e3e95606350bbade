"""The attention layers against numpy written from their equations."""

import in_numpy
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from in_numpy import normal

from imagen_jax.models.attention import AttentionPooling, ImageAttention

TEXT_WIDTH = 12
MASK = np.array([[True, True, False, False], [True, True, True, True]])


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
    queries = heads(dense(module.query, positions))
    attended = in_numpy.attend(queries, heads(keys), heads(values), mask)
    expected = x + dense(module.out, attended).reshape(x.shape)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_image_attention_starts_as_the_identity():
    module = image_attention(self_attention=True)
    x, text, mask = as_jax(normal(2, 2, 3, 8), normal(2, 4, TEXT_WIDTH), MASK)
    np.testing.assert_array_equal(module(x, module.text_keys_values(text), mask), x)


@pytest.mark.slow
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
    attended = in_numpy.attend(heads(dense(module.query, mean)), heads(keys), heads(values), MASK)
    expected = dense(module.out, attended[:, 0])
    np.testing.assert_allclose(module(*as_jax(text, MASK)), expected, rtol=1e-4, atol=1e-4)
