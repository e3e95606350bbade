"""Counted work is XLA's own count, where that is right, and no compiler's business elsewhere."""

import functools

import jax
import jax.numpy as jnp
import pytest
import tiny

from imagen_jax.costs.model_flops import model_flops
from imagen_jax.networks import build_networks
from imagen_jax.training.objective import diffusion_loss, mean_loss

X, W, KERNEL = jnp.ones((4, 8, 16)), jnp.ones((16, 16)), jnp.ones((3, 3, 16, 16))
PICTURES = jnp.ones((2, 12, 12, 16))


def xla_flops(function, *arguments):
    """Of the program before it is optimised, dots and convolutions alone."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def conv(x, kernel, stride=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda w, x: x @ w, (W, X)),
        (lambda w, x: jnp.einsum("BQN,BKN->BQK", x @ w, x), (W, X)),
        (conv, (PICTURES, KERNEL)),
        (lambda x, k: conv(x, k, stride=2), (PICTURES, KERNEL)),
        (lambda x, k: conv(x[:, :1, :2], k), (PICTURES, KERNEL)),
    ],
)
def test_dots_and_convolutions_count_as_xla_counts_them(function, arguments):
    assert model_flops(function, *arguments) == xla_flops(function, *arguments)


def sum_of(function):
    return lambda *arguments: jnp.sum(function(*arguments))


def test_a_backward_pass_costs_a_forward_for_each_operand_with_a_gradient():
    forward = 2 * X.size * 16
    assert model_flops(sum_of(lambda w, x: x @ w), W, X, trained=True) == 2 * forward
    two_layers = sum_of(lambda w, x: (x @ w) @ w)
    assert model_flops(two_layers, W, X, trained=True) == 2 * forward + 3 * forward
    frozen_first = sum_of(lambda w, x: (x @ W) @ w)
    assert model_flops(frozen_first, W, X, trained=True) == forward + 2 * forward


def test_a_trained_convolution_costs_what_xla_counts_for_its_gradients():
    def loss(kernel, x):
        # An input without gradient, a strided layer in the middle, a layer on top.
        return jnp.sum(conv(conv(conv(x, kernel), kernel, stride=2), kernel) * 2)

    counted = model_flops(loss, KERNEL, PICTURES, trained=True)
    # The rest are additions of the sum and of the gradients.
    assert counted == pytest.approx(xla_flops(jax.value_and_grad(loss), KERNEL, PICTURES), rel=0.02)


@pytest.mark.parametrize("length", [1, 7])
def test_a_loop_counts_by_its_length_and_remat_does_not(length):
    def looped(w, x):
        body = jax.checkpoint(lambda x, _: (jnp.tanh(x @ w), None))
        return jnp.sum(jax.lax.scan(body, x, None, length=length)[0])

    def unrolled(w, x):
        for _ in range(length):
            x = jnp.tanh(x @ w)
        return jnp.sum(x)

    for trained in (False, True):
        expected = model_flops(unrolled, W, X, trained=trained)
        assert model_flops(looped, W, X, trained=trained) == expected
    assert expected == (3 * length - 1) * 2 * X.size * 16


def test_scanned_weights_and_inner_functions_are_followed():
    def loss(ws, x):
        step = jax.jit(lambda x, w: (jax.nn.silu(x @ w), None))
        return jnp.sum(jax.lax.scan(step, x, ws)[0])

    assert (
        model_flops(loss, jnp.ones((5, 16, 16)), X, trained=True) == (5 * 3 - 1) * 2 * X.size * 16
    )


@pytest.mark.parametrize(
    ("make", "wide"),
    [(tiny.stage, {"embed_dim": 64}), (tiny.super_resolution, {"channels": (64,)})],
)
def test_the_work_of_a_whole_stage_is_near_what_xla_counts(make, wide):
    # Wide, so that convolutions outweigh what is counted by XLA alone.
    config = tiny.replace(make(), unet=wide)
    networks, params = build_networks(config), tiny.random_params(config)
    batch = jax.tree.map(jnp.asarray, tiny.batch(config))
    keys = jax.random.split(jax.random.key(0), 8)
    mean = functools.partial(mean_loss, diffusion_loss, config, networks)
    loss = lambda params: mean(params, {}, batch, keys)  # noqa: E731
    counted = model_flops(loss, params, trained=True)
    # Also counted by XLA: everything elementwise, and gradients of embeddings.
    assert 0.7 < counted / xla_flops(jax.grad(loss), params) <= 1
