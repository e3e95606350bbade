"""Interrupted runs go on as if nothing had happened; hopeless ones stop and say why."""

import contextlib
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import runs
import tiny
from scripts import tree

from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.training.checkpoint import Checkpoints, claim_directory, read_config
from imagen_jax.training.loop import run
from imagen_jax.training.metrics_file import read_metrics


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def config(directory):
    return tiny.stage(data=tiny.folder(directory / "data"))


def steps(config, count, **training):
    return tiny.replace(config, training={"num_steps": count, **training})


@pytest.fixture(scope="module")
def straight(config, directory):
    """A run of six steps without a break."""
    run(steps(config, 6), directory / "straight")
    return runs.saved(config, directory / "straight")


def latest_step(workdir):
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.latest_step()


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(config, directory, straight):
    """Parameters, EMA, optimizer state and data; the break is between two checkpoints."""
    workdir = directory / "broken"
    run(steps(config, 3), workdir)
    assert latest_step(workdir) == 3
    run(steps(config, 6), workdir)
    assert straight.step == 6
    assert_same(runs.saved(config, workdir), straight)


def test_a_killed_run_goes_on_as_if_it_had_not_been(config, directory, straight):
    workdir = directory / "killed"
    endless = steps(config, 10**6, checkpoint_every=2, keep_checkpoints=100)
    with runs.start_process(endless, workdir) as process:
        deadline = time.monotonic() + 240
        try:
            while not (workdir / "checkpoints" / "2").is_dir():
                assert process.poll() is None, process.stderr.read().decode()
                assert time.monotonic() < deadline, "the run made no checkpoint"
                time.sleep(0.01)
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL
    last = latest_step(workdir)
    assert last % 2 == 0
    count = max(6, last + 2)
    run(steps(config, count), workdir)
    if count > 6:
        longer = shutil.copytree(directory / "straight", directory / "longer")
        run(steps(config, count), longer)
        straight = runs.saved(config, longer)
    assert_same(runs.saved(config, workdir), straight)


def test_a_run_logs_every_step_once(directory, straight):
    metrics = read_metrics(directory / "straight")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    losses = [line["loss"] for line in metrics]
    assert np.all(np.isfinite(losses)) and np.ptp(losses) > 0


def test_a_state_is_the_same_on_another_mesh(config, directory, straight, monkeypatch):
    """It was saved from eight devices, large arrays in parts; here small ones are in two."""
    monkeypatch.setattr(meshes, "_REPLICATE_BELOW", 64)
    other = tiny.replace(config, mesh={"fsdp": 2, "spatial": 2})
    assert_same(runs.saved(other, directory / "straight"), straight)


def test_what_changes_nothing_that_is_learned_may_change(config, tmp_path):
    claim_directory(tmp_path / "run", config)
    changed = tiny.replace(
        config, mesh={"fsdp": 4}, data={"num_workers": 1}, training={"sample_prompts": ("a",)}
    )
    claim_directory(tmp_path / "run", changed)
    assert read_config(tmp_path / "run") == changed


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": {"learning_rate": 0.5}}, r"optimizer\.learning_rate = 0\.001 .* 0\.5"),
        ({"training": {"batch_size": 16}}, r"training\.batch_size = 8 .* 16"),
        ({"name": "other"}, "name = 'tiny' .* 'other'"),
        ({"unet": {"embed_dim": 16}}, r"unet\.embed_dim = 8 .* 16"),
    ],
)
def test_the_directory_of_another_config_is_refused_untouched(
    config, directory, straight, changes, says
):
    before = tree(directory / "straight")
    with pytest.raises(UsageError, match=says):
        run(tiny.replace(config, **changes), directory / "straight")
    assert tree(directory / "straight") == before


def test_a_directory_with_other_things_in_it_is_refused_untouched(config, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match=r"not empty and holds no config\.json"):
        run(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_wrong_batch_size_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(UsageError, match="12 pictures does not divide over 8 devices"):
        run(tiny.replace(config, training={"batch_size": 12}), tmp_path / "new")
    assert not (tmp_path / "new").exists()
