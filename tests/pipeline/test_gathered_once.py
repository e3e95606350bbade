"""Parameters in parts are brought together once for all steps, where a device has room for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import imagen_jax
from imagen_jax.config import MeshConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline import memory
from imagen_jax.planning import calls
from imagen_jax.weights.stage_file import save_stage_file

DEVICES = 4
CONFIG = tiny.stage(
    unet={"embed_dim": 64, "norm_groups": 8}, sampling={"num_steps": 2, "thresholding": "static"}
)
"""Its largest kernels, 3 x 3 x 64 x 64, lie in parts."""


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:DEVICES])


def room(monkeypatch, size):
    monkeypatch.setattr(memory, "device_memory", lambda _: size)


def step_program(mesh):
    """The denoising step as it is compiled, and its call."""
    call = calls.sampler(CONFIG, CONFIG.sampling, DEVICES, mesh)
    return call.function.lower(*call.arguments).compile().as_text(), call


def test_a_step_sends_no_parameters_where_there_is_room(mesh, monkeypatch):
    room(monkeypatch, 0)
    program, call = step_program(mesh)
    assert program.count("all-gather(") >= 3 and call.held == 0
    room(monkeypatch, 2**40)
    program, call = step_program(mesh)
    assert "all-gather(" not in program
    parts = sum(x.size for x in jax.tree.leaves(call.params)) / DEVICES
    assert parts * 4 < call.held < 2 * parts * 4  # Small parameters are whole everywhere.


def test_pictures_are_the_same_with_and_without_room(mesh, monkeypatch, tmp_path):
    path = tmp_path / "base.safetensors"
    save_stage_file(path, CONFIG, tiny.random_params(CONFIG), "float32")
    painted = {}
    for size in (0, 2**40):
        room(monkeypatch, size)
        cascade = imagen_jax.load_cascade(base=path, mesh=mesh, keep="one")
        painted[size] = cascade("an apple", num_images=DEVICES).stages[0]
    np.testing.assert_array_equal(*painted.values())
    assert np.ptp(painted[0].astype(int), axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("size", "devices", "scans"), [(0, DEVICES, True), (2**40, DEVICES, False), (0, 1, False)]
)
def test_blocks_are_stacked_where_their_parameters_are_sent_alone(
    size, devices, scans, monkeypatch
):
    room(monkeypatch, size)
    levels = len(CONFIG.unet.channel_mult)
    unet = {"remat": ("selective",) * levels, "num_res_blocks": (2,) * levels}
    config = tiny.replace(CONFIG, unet=unet)
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    call = calls.sampler(config, config.sampling, DEVICES, mesh)
    assert ("scan[" in str(call.function.trace(*call.arguments).jaxpr)) == scans


@pytest.mark.parametrize(
    ("size", "held", "enlargement", "once"),
    [(100, 10, 1.0, True), (100, 36, 1.0, False), (100, 10, 2.0, False), (100, 10, 0.1, True)],
)
def test_the_whole_and_what_is_held_take_three_quarters_at_most(
    size, held, enlargement, once, mesh, monkeypatch
):
    room(monkeypatch, size)
    unet = {"kernel": jax.ShapeDtypeStruct((5, 4), jnp.bfloat16)}  # 40 bytes.
    assert memory.gathers_once(unet, mesh, held, enlargement) == once
    alone = make_mesh(MeshConfig(), jax.devices()[:1])
    assert not memory.gathers_once(unet, alone, held, enlargement)
