"""An objective of one's own: it is handed to the step, with a frozen teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from imagen_jax.diffusion import process, schedules
from imagen_jax.diffusion.pixels import to_unit
from imagen_jax.networks import prepare
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.loop import run
from imagen_jax.training.metrics_file import read_metrics
from imagen_jax.training.trainer import Trainer

CONFIG = tiny.told()


def distil(config, networks, params, frozen, batch, keys):
    """The student predicts what the teacher does, at one time."""
    x = to_unit(batch["image"])
    log_snr = schedules.log_snr(config.diffusion.schedule, jnp.full(len(x), 0.5))
    z = process.q_sample(x, process.normal(keys, x.shape[1:]), log_snr)
    told = networks.conditions_of(params, batch)
    told = prepare(config, told, jnp.zeros(len(x)), keys, x.shape[1:3])

    def predict(params):
        return networks.predict(params, z, log_snr, networks.encode(params, told)).value

    apart = jnp.square(predict(params) - predict(frozen["teacher"])).mean((1, 2, 3))
    return apart, {"apart": jnp.mean(batch["weight"] * apart)}


def batch():
    arrays = tiny.batch(CONFIG)
    return {name: jnp.asarray(arrays[name]) for name in ("image", "weight")}


@pytest.mark.slow
def test_a_step_learns_from_another_objective_and_leaves_the_teacher():
    trainer = Trainer(CONFIG, make_mesh(CONFIG.mesh, jax.devices()[:1]), distil)
    teacher = jax.tree.map(jnp.asarray, tiny.random_params(CONFIG, seed=1))
    state, losses = tiny.state(CONFIG), []
    for _ in range(30):
        state, metrics = trainer.step(state, {"teacher": teacher}, batch(), jax.random.key(0))
        losses.append(float(metrics["loss"]))
        assert metrics["apart"] == pytest.approx(losses[-1])
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert "bin_losses" not in metrics
    same = tiny.state(CONFIG, seed=1)
    _, metrics = trainer.step(same, {"teacher": teacher}, batch(), jax.random.key(0))
    assert metrics["loss"] == 0


@pytest.mark.slow
def test_a_run_takes_an_objective_and_logs_its_metrics(tmp_path):
    config = tiny.replace(
        CONFIG, data=tiny.labelled_folder(tmp_path / "pictures"), training={"num_steps": 2}
    )
    teacher = jax.tree.map(jnp.asarray, tiny.random_params(CONFIG, seed=1))
    run(config, tmp_path / "run", objective=distil, frozen={"teacher": teacher})
    lines = read_metrics(tmp_path / "run")
    assert all(line["apart"] == pytest.approx(line["loss"], rel=1e-5) for line in lines)
    assert "loss_by_time" not in lines[0]
