"""Where the plain form runs and where that of CPUs."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from in_numpy import normal

from imagen_jax import ops
from imagen_jax.config import UNetConfig
from imagen_jax.networks import build_networks

X, KERNEL = jnp.asarray(normal(1, 4, 4, 3)), jnp.asarray(normal(3, 3, 3, 2, seed=1))


def test_a_function_that_was_compiled_before_is_traced_anew_within_plain():
    convolved = jax.jit(lambda x: ops.convolve(x, KERNEL, 1))
    out = convolved(X)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(convolved, [X], [X])
    with ops.plain():
        value, derivative = jax.jvp(convolved, [X], [X])
    np.testing.assert_array_equal(value, out)
    np.testing.assert_allclose(derivative, out, rtol=1e-6)  # It is linear.


def test_plain_ends_with_its_context_though_that_fails():
    with pytest.raises(ZeroDivisionError), ops.plain():
        raise ZeroDivisionError
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: ops.convolve(x, KERNEL, 1), [X], [X])


UNET = UNetConfig(
    embed_dim=8, channel_mult=(1, 2), num_res_blocks=(1, 1), attention_resolutions=(8,), head_dim=8
)
NOT_COUNTED = {
    "stablehlo.case",
    "stablehlo.constant",
    "stablehlo.return",
    "stablehlo.broadcast_in_dim",
}
"""Of a choice between platforms there stays a case of one branch, and zeros for the other."""


def operations(traced, platform):
    """How often each stands in the program for a platform."""
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    counts = collections.Counter(re.findall(r"(?:stablehlo|chlo)\.\w+", text))
    return {name: counts[name] for name in counts.keys() - NOT_COUNTED}


@pytest.mark.slow
@pytest.mark.usefixtures("device_count")
def test_accelerators_run_the_plain_form():
    """A training step's operations are the same within `plain()` and without, but on CPUs."""
    config = tiny.stage(unet=UNET)
    networks, batch = build_networks(config), jax.tree.map(jnp.asarray, tiny.inputs(config))

    def loss(params):
        encoded = networks.encode(params, tiny.conditions(batch))
        return jnp.sum(networks.predict(params, batch["z"], batch["log_snr"], encoded).value ** 2)

    trace = lambda: jax.jit(jax.grad(loss)).trace(tiny.random_params(config))  # noqa: E731
    chosen = trace()
    with ops.plain():
        plain = trace()
    for platform in ("tpu", "cuda"):
        assert operations(chosen, platform) == operations(plain, platform)
    barrier = "stablehlo.optimization_barrier"  # A few are of remat.
    assert operations(chosen, "cpu")[barrier] > operations(plain, "cpu")[barrier]
