"""Averages of a chosen length: by their definition, rebuilt, through runs and by `export`."""

import contextlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny
from scripts import call, refused, verbs

from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.power_ema import Snapshots, exponent, fit, update_power_ema
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.stored.stages import load_weights
from imagen_jax.training.loop import run
from imagen_jax.training.start import abstract_state

LENGTHS = (0.05, 0.1)


def profile(end, length, count):
    """The weights of theta_1 to theta_count in the average at step `end`."""
    i, power = np.arange(1, count + 1), exponent(length) + 1
    return np.where(i <= end, (i / end) ** power - ((i - 1) / end) ** power, 0.0)


def walk(steps):
    """A random walk of weights: float64 [steps, 300]."""
    return np.cumsum(np.random.default_rng(0).normal(size=(steps, 300)), axis=0)


def test_exponents_are_the_papers():
    """16.97 and 6.94 in section 3.1 there; and a density's deviation is its length."""
    np.testing.assert_allclose([exponent(x) for x in LENGTHS], [16.97, 6.94], atol=0.005)
    tau = (np.arange(100_000) + 0.5) / 100_000
    for length in (0.05, 0.15, 0.25):
        p = (exponent(length) + 1) * tau ** exponent(length)
        deviation = np.sqrt(np.mean(p * tau**2) - np.mean(p * tau) ** 2)
        np.testing.assert_allclose(deviation, length, rtol=1e-4)


def test_a_tracked_average_is_its_definition():
    weights = walk(400)
    averages = ({"w": jnp.zeros(300)},) * 2  # What was before step 1 has no part in it.
    update = jax.jit(lambda a, w, step: update_power_ema(a, LENGTHS, {"w": w}, step))
    for step, row in enumerate(weights):
        averages = update(averages, jnp.float32(row), jnp.int32(step))
    for average, length in zip(averages, LENGTHS, strict=True):
        expected = profile(400, length, 400) @ weights
        np.testing.assert_allclose(average["w"], expected, rtol=1e-4, atol=1e-4)


def test_late_steps_of_long_runs_still_count():
    """1 - b by itself would be rounded to nothing or to twice as much."""
    of = ({"w": jnp.zeros(1)},), (0.1,), {"w": jnp.ones(1)}
    (average,) = update_power_ema(*of, jnp.int32(2_400_000))
    np.testing.assert_allclose(average["w"], (exponent(0.1) + 1) / 2_400_001, rtol=1e-5)


@pytest.mark.parametrize(
    ("count", "length", "most"), [(8, 0.15, 0.04), (40, 0.15, 0.002), (40, 0.07, 0.001)]
)
def test_an_average_of_another_length_is_rebuilt(count, length, most):
    """Of the random walk, and as near as the fit says of the profiles."""
    weights, steps = walk(800), np.arange(1, count + 1) * (800 // count)
    made = fit(steps.tolist(), LENGTHS, length)
    profiles = np.stack([[profile(step, x, 800) for x in LENGTHS] for step in steps])
    rebuilt, wanted = np.tensordot(made.coefficients, profiles, 2), profile(800, length, 800)
    error = np.linalg.norm(rebuilt - wanted) / np.linalg.norm(wanted)
    np.testing.assert_allclose(error, made.error, rtol=0.05)
    assert error < most
    direct = wanted @ weights
    off = np.linalg.norm(rebuilt @ weights - direct)
    assert off < 2 * most * np.linalg.norm(direct)


def test_what_was_tracked_is_rebuilt_from_its_newest_snapshot_alone():
    made = fit([200, 100], LENGTHS, 0.1)
    np.testing.assert_allclose(made.coefficients, [[0, 1], [0, 0]], atol=1e-6)
    assert made.error < 1e-6


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.stage(
        data=tiny.folder(tmp_path_factory.mktemp("data") / "data"),
        optimizer={"power_ema": LENGTHS},
        training={
            "num_steps": 6,
            "snapshot_every": 2,
            "checkpoint_every": 2,
            "keep_checkpoints": 1,
        },
    )


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    run(config, workdir)
    return workdir


def averages(config, workdir, kind=Snapshots, step=None):
    abstract = abstract_state(config, make_mesh(MeshConfig()))
    with contextlib.closing(kind(workdir)) as kept:
        restored = kept.restore(lambda _: {"power_ema": abstract.power_ema}, step)
        return kept.steps(), jax.device_get(restored.items["power_ema"])


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_snapshots_stay_and_a_resumed_run_makes_the_same(config, straight, tmp_path):
    assert runs.steps(straight) == [6]
    steps, newest = averages(config, straight)
    assert steps == [6, 4, 2]
    assert_same(averages(config, straight, Checkpoints)[1], newest)
    broken = tmp_path / "broken"
    run(tiny.replace(config, training={"num_steps": 3}), broken)
    run(config, broken)
    assert averages(config, broken)[0] == [6, 4, 3, 2]
    for step in (2, 4, 6):
        assert_same(*(averages(config, x, step=step)[1] for x in (broken, straight)))
    kernels = [x["unet"]["conv_in"]["kernel"] for x in newest]
    assert np.any(kernels[0] != kernels[1])


def test_all_snapshots_are_listed_however_many(tmp_path):
    for step in range(1, 121):
        (tmp_path / "snapshots" / str(step)).mkdir(parents=True)
    with contextlib.closing(Snapshots(tmp_path)) as snapshots:
        assert snapshots.steps() == list(range(120, 0, -1))


def test_snapshots_after_the_checkpoint_are_made_again(config, straight, tmp_path):
    """As where the machine went down while the last checkpoint was being written."""
    early = tmp_path / "early"
    run(tiny.replace(config, training={"num_steps": 2}), early)
    shutil.copytree(straight / "snapshots" / "4", early / "snapshots" / "4")
    with pytest.warns(UserWarning, match="is kept as"):
        run(config, early)
    assert_same(averages(config, early)[1], averages(config, straight)[1])
    assert (early / "snapshots_taken_again" / "4").is_dir() and not (early / "damaged").exists()


def test_a_run_cannot_begin_to_average_later(config, straight):
    for allowed in ((), ("optimizer.power_ema",)):
        with pytest.raises(UsageError, match=r"optimizer\.power_ema") as caught:
            run(tiny.replace(config, optimizer={"power_ema": ()}), straight, allow_change=allowed)
        assert "pass --allow-change" not in str(caught.value)


def test_export_writes_the_length_that_was_asked_for(config, straight, tmp_path):
    out = tmp_path / "out.safetensors"
    said = call(verbs, "export", straight, out, "--dtype", "float32", "--ema-length", 0.08)
    assert said.code == 0 and "length 0.08, fitted within" in said.out
    made, expected = fit([6, 4, 2], LENGTHS, 0.08), 0.0
    for step, row in zip((6, 4, 2), made.coefficients, strict=True):
        for coefficient, x in zip(row, averages(config, straight, step=step)[1], strict=True):
            expected += coefficient * np.float64(x["unet"]["conv_in"]["kernel"])
    kernel = load_weights(out).params["unet"]["conv_in"]["kernel"]
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


def test_what_no_snapshots_give_is_refused(config, straight, tmp_path):
    out = tmp_path / "out.safetensors"
    export = lambda path, *flags: call(verbs, "export", path, out, *flags)  # noqa: E731
    refused(export(straight, "--ema-length", 0.01), "--ema-length is 0.01; it must lie between")
    for length in (0.5, 0, -0.1, "nan", "inf"):
        refused(export(straight, f"--ema-length={length}"), "; it must lie between")
    refused(export(straight, "--ema-length", 0.25), "the 3 snapshots of")
    refused(export(straight, "--ema-length", 0.1, "--weights", "raw"), "nor --weights raw")
    refused(export(straight, "--ema-length", 0.1, "--layout", "diffusers"), "and --layout diffus")
    plain = tmp_path / "plain"
    run(tiny.replace(config, optimizer={"power_ema": ()}, training={"num_steps": 1}), plain)
    refused(export(plain, "--ema-length", 0.1), "holds no snapshots; a run keeps them where")
    assert not (plain / "snapshots").exists() and not out.exists()
