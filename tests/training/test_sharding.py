"""A step over eight virtual devices is the step on one, and its state is really divided."""

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.training.loop import Trainer
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.step import TrainState

SMALL = 64
"""Arrays from here on are sharded in these tests: tiny networks have no large ones."""
STEPS = 3


@pytest.fixture(autouse=True)
def shard_small_arrays(monkeypatch):
    monkeypatch.setattr(meshes, "_REPLICATE_BELOW", SMALL)


def train(config, mesh):
    """Losses of the first steps, and the state after them, on the mesh."""
    trainer = Trainer(config, mesh)
    params = tiny.random_params(config)
    state = TrainState(
        step=np.int32(0), params=params, ema=params,
        opt_state=jax.device_get(make_optimizer(config.optimizer).init(params)),
    )  # fmt: skip
    state = jax.device_put(state, trainer.shardings)
    batch = meshes.global_batch(tiny.batch(config), mesh)
    losses = []
    for _ in range(STEPS):
        state, metrics = trainer.step(state, {}, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return losses, state


def stage(optimizer):
    # A rate at which rounding of a small gradient does not become a whole Adam step.
    return tiny.stage(optimizer={"name": optimizer, "learning_rate": 1e-4})


@pytest.fixture(scope="module")
def alone():
    """Of each optimizer, the run on one device."""
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    return {name: train(stage(name), mesh) for name in ("adam", "adafactor")}


@pytest.mark.parametrize(
    ("optimizer", "fsdp"), [("adam", 8), ("adam", 4), ("adam", 1), ("adafactor", 4)]
)
def test_sharded_equals_single_device(alone, optimizer, fsdp):
    """fsdp 8, 4 and 1 of eight devices: meshes 1x8, 2x4 and 8x1."""
    mesh = meshes.make_mesh(MeshConfig(fsdp=fsdp))
    assert mesh.devices.shape == (8 // fsdp, fsdp)
    losses, state = train(stage(optimizer), mesh)
    expected_losses, expected = alone[optimizer]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    gradients = alone["adam"][1].opt_state[1][0].mu
    for name in ("params", "ema"):
        jax.tree.map(assert_close, getattr(state, name), getattr(expected, name), gradients)
    assert_divided(state, fsdp)


def assert_close(x, y, gradient):
    """Within 7% of what three Adam steps move, wherever there is a gradient to speak of.

    A bias in front of a norm has none: its rounding errors become whole steps of any sign.
    """
    learns = np.abs(gradient) > 1e-5
    np.testing.assert_allclose(np.asarray(x)[learns], np.asarray(y)[learns], rtol=1e-3, atol=2e-5)


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


@pytest.mark.parametrize(
    ("shape", "fsdp", "spec"),
    [
        ((3, 3, 512, 1024), 8, P(None, None, None, "fsdp")),
        ((3, 3, 1024, 512), 8, P(None, None, "fsdp", None)),
        ((512, 512), 8, P(None, "fsdp")),
        ((2048, 7), 8, P("fsdp", None)),
        ((2049, 511), 8, P()),
        ((64,), 8, P()),
        ((), 8, P()),
        ((512, 512), 1, P()),
    ],
)
def test_the_largest_divisible_axis_is_sharded_and_small_arrays_are_not(
    monkeypatch, shape, fsdp, spec
):
    monkeypatch.setattr(meshes, "_REPLICATE_BELOW", 2**12)
    assert meshes.parameter_spec(shape, fsdp) == spec


def test_a_mesh_takes_all_devices_and_refuses_what_does_not_divide_them():
    assert meshes.make_mesh(MeshConfig()).devices.shape == (1, 8)
    with pytest.raises(UsageError, match="fsdp is 3; it must divide the 8 devices"):
        meshes.make_mesh(MeshConfig(fsdp=3))


def test_a_batch_must_divide_over_the_devices():
    mesh = meshes.make_mesh(MeshConfig())
    with pytest.raises(UsageError, match="12 pictures does not divide over 8 devices"):
        meshes.check_batch_size(12, mesh)
    with pytest.raises(UsageError, match="4 pictures"):
        Trainer(tiny.stage(training={"accumulation_steps": 2}), mesh)


def test_a_batch_lies_one_picture_to_a_device():
    mesh = meshes.make_mesh(MeshConfig(fsdp=4))
    batch = tiny.batch(tiny.stage())
    placed = meshes.global_batch(batch, mesh)
    assert {shard.data.shape[0] for shard in placed["image"].addressable_shards} == {1}
    np.testing.assert_array_equal(placed["image"], batch["image"])
