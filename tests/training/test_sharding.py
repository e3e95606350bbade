"""A step over eight virtual devices is the step on one, and its state is really divided."""

import functools

import jax
import numpy as np
import pytest
import tiny

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.training.students import student_of
from imagen_jax.training.trainer import Trainer
from imagen_jax.weights.stage_file import save_stage_file

SMALL = 64
"""Arrays from here on are sharded in these tests: tiny networks have no large ones."""
STEPS = 3
TOLERANCES = {"adam": 2e-5, "adafactor": 2e-6}
"""Three steps of Adam move 3e-4, of Adafactor 3e-4 times the mean size of a parameter."""


@pytest.fixture(autouse=True)
def shard_small_arrays(monkeypatch):
    monkeypatch.setattr(meshes, "_REPLICATE_BELOW", SMALL)


def train(config, mesh, workdir=None):
    """Losses and gradient norms of the first steps, and the state after them, on the mesh."""
    trainer = Trainer(config, mesh)
    frozen = {} if workdir is None else trainer.load_frozen(workdir, None)
    state = jax.device_put(tiny.state(config), trainer.shardings)
    batch = meshes.global_batch(tiny.batch(config), mesh)
    seen = []
    for _ in range(STEPS):
        state, metrics = trainer.step(state, frozen, batch, jax.random.key(0))
        # Clipping and both optimizers forget the size of a gradient; its norm tells.
        seen.append([float(metrics[name]) for name in ("loss", "gradient_norm")])
    return seen, state


def stage(optimizer):
    # A rate at which rounding of a small gradient does not become a whole Adam step.
    return tiny.stage(optimizer={"name": optimizer, "learning_rate": 1e-4})


@pytest.fixture(scope="module")
def alone():
    """Of each optimizer, the run on one device."""
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    return {name: train(stage(name), mesh) for name in ("adam", "adafactor")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "fsdp", "spatial"),
    [("adam", 8, 1), ("adafactor", 4, 1), ("adam", 2, 2), ("adam", 1, 1)],
)
def test_sharded_equals_single_device(alone, optimizer, fsdp, spatial):
    """Eight devices as meshes 1x8x1, 2x4x1, 2x2x2, which splits pictures too, and 8x1x1."""
    mesh = meshes.make_mesh(MeshConfig(fsdp=fsdp, spatial=spatial))
    seen, state = train(stage(optimizer), mesh)
    expected_seen, expected = alone[optimizer]
    np.testing.assert_allclose(seen, expected_seen, rtol=1e-4)
    gradients = alone["adam"][1].opt_state[1][0].mu
    for name in ("params", "ema"):
        coupled = optimizer == "adafactor"
        close = functools.partial(assert_close, atol=TOLERANCES[optimizer], coupled=coupled)
        compared = jax.tree.map(close, getattr(state, name), getattr(expected, name), gradients)
        assert sum(jax.tree.leaves(compared)) > 40, compared
    assert_divided(state, fsdp)


@pytest.mark.slow
def test_scanned_blocks_are_sharded_without_a_wrong_number():
    """Scans over stacked parameters are where the partitioner has computed a wrong loss."""
    unet = {"num_res_blocks": (3,), "attention_resolutions": (8,), "remat": ("full",)}
    config = tiny.replace(
        stage("adam"), unet=unet, text_encoder={"t5": {"num_layers": 2, "remat": "full"}}
    )
    expected_seen, expected = train(config, meshes.make_mesh(MeshConfig(), jax.devices()[:1]))
    seen, state = train(config, meshes.make_mesh(MeshConfig(fsdp=4)))
    np.testing.assert_allclose(seen, expected_seen, rtol=1e-4)
    gradients = expected.opt_state[1][0].mu
    close = functools.partial(assert_close, atol=TOLERANCES["adam"])
    jax.tree.map(close, state.params, expected.params, gradients)
    assert_divided(state, 4)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, 2], ids=["guidance", "two steps in one"])
def test_a_sharded_student_learns_what_one_device_does(steps, tmp_path):
    """Teacher and text encoder lie on the same mesh."""
    theirs = tiny.stage(diffusion={"prediction": "v"}, sampling={"guidance_scale": 2.0})
    teacher = tmp_path / "teacher.safetensors"
    save_stage_file(teacher, theirs, tiny.random_params(theirs, seed=1), "float32")
    recipe = tiny.replace(
        stage("adam"), text_encoder={"train": False}, conditions={"guidance": (1.0, 5.0)},
        diffusion={"prediction": "v"}, sampling={"guidance_scale": 1.0},
    )  # fmt: skip
    config = student_of(recipe, str(teacher), steps)
    alone = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    expected_seen, expected = train(config, alone, tmp_path)
    seen, state = train(config, meshes.make_mesh(MeshConfig(fsdp=4)), tmp_path)
    np.testing.assert_allclose(seen, expected_seen, rtol=1e-4)
    close = functools.partial(assert_close, atol=TOLERANCES["adam"])
    jax.tree.map(close, state.params, expected.params, expected.opt_state[1][0].mu)
    assert_divided(state, 4)


def assert_close(x, y, gradient, atol, coupled=False) -> bool:
    """Much nearer than three steps move, wherever there is a gradient to speak of.

    A bias in front of a norm has none, nor has that of attention's keys: its rounding errors
    become whole steps of any sign. Adafactor scales the steps of an array by their mean size
    (`coupled`), so that such entries reach all of their array.

    Returns whether anything was compared.
    """
    size = np.abs(gradient)
    learns = (size > 1e-5) & (not coupled or size.min() > 1e-7)
    np.testing.assert_allclose(np.asarray(x)[learns], np.asarray(y)[learns], rtol=1e-6, atol=atol)
    return bool(learns.any())


def assert_divided(state, fsdp):
    """Every large array that fsdp divides somewhere is in fsdp parts, one on each device."""
    divided = 0
    for part in (state.params, state.ema, state.opt_state):
        for path, x in jax.tree_util.tree_leaves_with_path(part):
            if x.size < SMALL or all(side % fsdp for side in x.shape):
                continue
            sizes = {shard.data.size for shard in x.addressable_shards}
            assert sizes == {x.size // fsdp}, jax.tree_util.keystr(path)
            divided += 1
    assert divided > 50


def test_what_does_not_divide_is_refused_before_anything_is_made():
    mesh = meshes.make_mesh(MeshConfig())
    with pytest.raises(UsageError, match="4 pictures"):
        Trainer(tiny.stage(training={"accumulation_steps": 2}), mesh)
    mesh = meshes.make_mesh(MeshConfig(fsdp=1, spatial=8))
    with pytest.raises(UsageError, match="picture 4 pixels high does not divide over 8"):
        Trainer(tiny.super_resolution(low_resolution=4), mesh)


@pytest.mark.slow
def test_a_fresh_state_is_born_divided():
    mesh = meshes.make_mesh(MeshConfig(fsdp=8))
    trainer = Trainer(stage("adam"), mesh)
    compiled = trainer.init.lower(jax.random.key(0)).compile()
    assert jax.tree.all(
        jax.tree.map(
            lambda got, want, x: got.is_equivalent_to(want, x.ndim),
            compiled.output_shardings, trainer.shardings, trainer.abstract_state,
        )
    )  # fmt: skip
