"""What is recomputed and what is scanned changes neither results nor gradients."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from imagen_jax.config import EfficientUNetConfig, UNetConfig
from imagen_jax.networks import build_networks

UNET = UNetConfig(
    embed_dim=8, channel_mult=(1,), num_res_blocks=(2,), attention_resolutions=(8,), head_dim=8,
    patch_size=2,
)  # fmt: skip
EFFICIENT = EfficientUNetConfig(
    channels=(8,), num_res_blocks=(2,), strides=(2,), self_attention=(True,),
    text_attention=(True,), attention_per_res_block=True, num_heads=2,
)  # fmt: skip
RISING_AND_FALLING = tiny.replace(
    UNET, channel_mult=(1, 2, 1), num_res_blocks=(1, 1, 1), attention_resolutions=()
)
"""Going up, two blocks of the middle level read as many channels: 8 + 16 and 16 + 8."""
NETWORKS = {
    "unet": UNET,
    "efficient_unet": EFFICIENT,
}


def make(network, remat, gather=None):
    """(params, loss of params); every remat of a network has the same params."""
    network = NETWORKS.get(network, RISING_AND_FALLING)
    unet = tiny.replace(network, remat=(remat,) * len(network.num_res_blocks))
    t5 = {"remat": remat, "num_layers": 2}
    config = tiny.stage(low_resolution=8, unet=unet, text_encoder={"t5": t5})
    networks = build_networks(config, gather)
    batch = jax.tree.map(jnp.asarray, tiny.inputs(config))
    token_ids = jnp.arange(2 * tiny.LENGTH, dtype=jnp.int32).reshape(2, -1)

    def loss(params):
        text = networks.embed(params, token_ids, batch["mask"])
        encoded = networks.encode(params, tiny.conditions({**batch, "text": text}))
        out = networks.predict(params, batch["z"], batch["log_snr"], encoded).value
        return jnp.mean(jnp.square(out - batch["z"]))

    return tiny.random_params(config), loss


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("network", [*NETWORKS, "rising and falling"])
def test_loss_and_gradients_do_not_depend_on_remat(network):
    results = {}
    for remat in ("none", "selective", "full"):
        params, loss = make(network, remat)
        results[remat] = jax.jit(jax.value_and_grad(loss))(params)
    wanted_loss, wanted = results.pop("none")
    assert np.isfinite(wanted_loss)
    for loss, grads in results.values():
        np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), grads, wanted
        )


def kept_bytes(loss, params):
    """Of the intermediate results that the backward pass reads."""
    backward = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward))


@pytest.mark.slow
def test_each_step_of_remat_keeps_less(network):
    sizes = [kept_bytes(loss, params) for params, loss in map(
        functools.partial(make, network), ("none", "selective", "full")
    )]  # fmt: skip
    assert sizes[0] > sizes[1] > sizes[2]


def count_primitives(jaxpr, counts=None):
    """How often each primitive stands in a program, a loop's body counted once."""
    counts = collections.Counter() if counts is None else counts
    for equation in jaxpr.eqns:
        counts[equation.primitive.name] += 1
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                count_primitives(inner, counts)
    return counts


@pytest.mark.slow
def test_a_run_of_equal_blocks_is_one_scan(network):
    """Equal blocks stand there once."""
    counts = {}
    for remat in ("none", "full"):
        params, loss = make(network, remat)
        counts[remat] = count_primitives(jax.make_jaxpr(loss)(params).jaxpr)
    assert counts["none"]["scan"] == 0
    assert counts["full"]["scan"] >= 2
    saved = counts["none"]["conv_general_dilated"] - counts["full"]["conv_general_dilated"]
    assert saved >= 4  # Two convolutions of a block going down, and of one going up.


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_all_parameters_are_gathered_but_the_small_ones_of_stem_and_head(network, remat):
    """What does not pass through `gather` is left to the partitioner."""
    params, loss = make(network, remat, gather=lambda tree, dtype: jax.lax.stop_gradient(tree))
    grads = jax.jit(jax.grad(loss))(params)
    missed = {
        ".".join(str(getattr(key, "key", key)) for key in path)
        for path, grad in jax.tree.leaves_with_path(grads)
        if np.any(grad)
    }
    norms = {"text_encoder.final_norm.scale", "unet.norm_out.bias", "unet.norm_out.scale"}
    assert missed == {*norms, "text_encoder.relative_bias"}
