"""Forward derivatives of whole networks, whose parameters lie in parts on eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from in_numpy import normal

from imagen_jax import ops
from imagen_jax.config import MeshConfig, UNetConfig
from imagen_jax.networks import build_networks
from imagen_jax.parallel import mesh as meshes

UNET = UNetConfig(
    embed_dim=8, channel_mult=(1, 2), num_res_blocks=(1, 1), attention_resolutions=(8,), head_dim=8
)
STAGE_1 = tiny.replace(
    tiny.UNET, attention_resolutions=(8,), variant=dict(
        activation="gelu", time_input="step", pooling="token", text_projection=8,
        text_norm="group", mask_padding=False, predicts_variance=True,
    ),
)  # fmt: skip
STAGE_2 = tiny.replace(
    STAGE_1, variant={"embedding_activation": "once", "embedding_dim": 16, "residual_scale": 0.7}
)
SCANNED = tiny.replace(tiny.EFFICIENT_UNET, remat=("selective",), num_res_blocks=(2,))
NETWORKS = {
    "unet": tiny.stage(unet=UNET),
    "deepfloyd's first": tiny.stage(unet=STAGE_1),
    "deepfloyd's second": tiny.stage(unet=STAGE_2, low_resolution=8),
    "efficient_unet": tiny.super_resolution(unet=SCANNED),
}
T5 = tiny.replace(tiny.T5, num_layers=2, remat="full")
"""Gated GELU, as ReLU has no derivative where it bends."""


@pytest.fixture
def mesh(monkeypatch):
    monkeypatch.setattr(meshes, "_REPLICATE_BELOW", 2**6)
    return meshes.make_mesh(MeshConfig())


def predict(networks, params, text, z, batch):
    encoded = networks.encode(params, tiny.conditions({**batch, "text": text}))
    # The network's own channels; a variance is a part of them.
    return jnp.concatenate(
        jax.tree.leaves(networks.predict(params, z, batch["log_snr"], encoded)), -1
    )


def assert_is_finite_difference(function, *inputs):
    """(f(x + h u) - f(x - h u)) / 2h for a random u of each input; all from one program."""

    @jax.jit
    def run(inputs, tangents):
        with ops.plain():
            return jax.jvp(function, inputs, tangents)

    # As large as the inputs, so that all count.
    like = lambda x: jnp.std(x) * normal(*x.shape, seed=x.size)  # noqa: E731
    tangents = jax.tree.map(lambda x: jax.device_put(like(x), x.sharding), inputs)
    step = 2**-10
    moved = lambda h: jax.tree.map(lambda x, u: x + h * u, inputs, tangents)  # noqa: E731
    after, before = (np.asarray(run(moved(h), tangents)[0], float) for h in (step, -step))
    difference, derivative = (after - before) / (2 * step), run(inputs, tangents)[1]
    assert np.linalg.norm(derivative - difference) < 1e-3 * np.linalg.norm(difference)


def placed(params, mesh):
    params = meshes.place_parameters(params, meshes.parameter_shardings(params, mesh))
    assert sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(params)) > 5
    return params


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_unet_has_forward_derivatives_by_parameters_pictures_and_text(name, mesh):
    config = NETWORKS[name]
    networks = build_networks(config, functools.partial(meshes.gather_parameters, mesh=mesh))
    batch = jax.device_put(tiny.inputs(config), meshes.replicated(mesh))
    params = placed({"unet": tiny.random_params(config)["unet"]}, mesh)
    function = functools.partial(predict, networks, batch=batch)
    assert_is_finite_difference(function, params, batch["text"], batch["z"])


@pytest.mark.slow
def test_a_text_encoder_has_forward_derivatives_by_its_parameters(mesh):
    config = tiny.stage(text_encoder={"t5": T5})
    networks = build_networks(config, functools.partial(meshes.gather_parameters, mesh=mesh))
    params = placed({"text_encoder": tiny.random_params(config)["text_encoder"]}, mesh)
    token_ids = jnp.arange(2 * tiny.LENGTH, dtype=jnp.int32).reshape(2, -1)
    mask = jnp.asarray(tiny.inputs(config)["mask"])
    embed = lambda params: networks.embed(params, token_ids, mask)  # noqa: E731
    assert_is_finite_difference(embed, params)
