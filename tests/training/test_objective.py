"""The diffusion loss by what the network sees and says, and objectives of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from imagen_jax.diffusion import process, schedules
from imagen_jax.diffusion.pixels import to_unit
from imagen_jax.networks import Networks, build_networks, prepare
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.loop import run
from imagen_jax.training.metrics_file import read_metrics
from imagen_jax.training.objective import diffusion_loss
from imagen_jax.training.trainer import Trainer

CONFIG = tiny.told()


def weight_on_x(log_snr, min_snr_gamma=None, sigmoid_bias=None):
    """Of the squared error of x; with phi = arctan(e^(-lambda / 2)) the cosine's
    -1/2 dlambda/dt is pi / sin(2 phi)."""
    if min_snr_gamma is not None:
        return np.minimum(np.exp(log_snr), min_snr_gamma)
    slope = np.pi / np.sin(2 * np.arctan(np.exp(-log_snr / 2)))
    return slope * np.exp(log_snr) / (1 + np.exp(log_snr - sigmoid_bias))


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("weight", [{}, {"min_snr_gamma": 5.0}, {"sigmoid_bias": -1.0}], ids=str)
def test_the_loss_is_that_of_what_the_network_sees_and_says(kind, weight, monkeypatch):
    """z and lambda tell the noise, which is N(0, I), and so what should have been said."""
    config, count, seen = tiny.stage(diffusion={"prediction": kind, **weight}), 64, {}

    def predict(self, params, z, log_snr, encoded):
        seen.update(z=z, log_snr=log_snr)
        return process.Predicted(0.5 * z)

    monkeypatch.setattr(Networks, "embed", lambda *_: jnp.zeros((count, tiny.LENGTH, 4)))
    monkeypatch.setattr(Networks, "encode", lambda *_: None)
    monkeypatch.setattr(Networks, "predict", predict)
    arrays = {name: jnp.asarray(x) for name, x in tiny.batch(config, count).items()}
    keys = jax.random.split(jax.random.key(0), count)
    losses, metrics = diffusion_loss(config, build_networks(config), {}, {}, arrays, keys)
    z, log_snr = (np.asarray(seen[name], np.float64) for name in ("z", "log_snr"))
    snr, over = np.exp(log_snr), (slice(None), None, None, None)
    alpha, sigma = np.sqrt(snr / (1 + snr))[over], np.sqrt(1 / (1 + snr))[over]
    x = np.float64(arrays["image"]) / 127.5 - 1
    eps = (z - alpha * x) / sigma
    # 768 values: five standard errors are 0.18 of the mean and 13 % of the deviation.
    assert np.abs(eps.mean((1, 2, 3))).max() < 0.18
    np.testing.assert_allclose(eps.std((1, 2, 3)), 1, rtol=0.13)
    assert log_snr.min() < -5 and log_snr.max() > 5
    wanted = {"eps": eps, "x0": x, "v": alpha * eps - sigma * x}[kind]
    expected = ((0.5 * z - wanted) ** 2).mean((1, 2, 3))
    if weight:
        expected *= weight_on_x(log_snr, **weight) / {"eps": snr, "x0": 1, "v": snr + 1}[kind]
    np.testing.assert_allclose(losses, expected, rtol=2e-3)
    np.testing.assert_allclose(metrics["bin_losses"].sum(), expected.mean(), rtol=2e-3)
    np.testing.assert_allclose(metrics["bin_shares"].sum(), 1, rtol=1e-6)


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
