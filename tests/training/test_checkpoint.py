"""Checkpoints: what they hold, and what is said of damaged ones."""

import gc
import json
import shutil
import warnings
from unittest import mock

import jax
import numpy as np
import pytest
import tiny

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.loading import load_stage
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.checkpoint import (
    Checkpoints,
    claim_directory,
    is_training_directory,
    load_directory,
    read_config,
)
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.step import TrainState


def make_state(config, step, seed=0):
    params = tiny.random_params(config, seed)
    opt_state = jax.device_get(make_optimizer(config.optimizer).init(params))
    ema = jax.tree.map(lambda x: -x, params)
    state = TrainState(step=np.int32(step), params=params, ema=ema, opt_state=opt_state)
    return jax.tree.map(jax.numpy.asarray, state)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A training directory with checkpoints of steps 1 and 2."""
    workdir, config = tmp_path_factory.mktemp("runs") / "stage", tiny.stage()
    claim_directory(workdir, config)
    checkpoints = Checkpoints(workdir, keep=3)
    for step in (1, 2):
        checkpoints.save(make_state(config, step, seed=step))
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(written, tmp_path):
    return shutil.copytree(written, tmp_path / "stage")


def test_the_newest_state_comes_back(workdir):
    state = make_state(tiny.stage(), 2, seed=2)
    restored = Checkpoints(workdir).restore(jax.tree.map(abstract_array, state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def abstract_array(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def test_a_stage_is_loaded_with_its_ema(workdir):
    config, params = load_directory(workdir, make_mesh(MeshConfig()))
    assert config == tiny.stage()
    jax.tree.map(np.testing.assert_array_equal, params, make_state(config, 2, seed=2).ema)
    assert is_training_directory(workdir)


def test_only_the_last_checkpoints_are_kept(workdir):
    checkpoints = Checkpoints(workdir, keep=2)
    checkpoints.save(make_state(tiny.stage(), 3))
    checkpoints.close()
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "3"]


def test_versions_are_beside_the_config(workdir):
    versions = json.loads((workdir / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    assert read_config(workdir) == tiny.stage()


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda step: truncate(largest_file(step / "ema")),
        lambda step: largest_file(step / "ema").unlink(),
        lambda step: shutil.rmtree(step / "ema"),
        lambda step: truncate(step / "ema" / "_METADATA"),
        lambda step: (step / "ema" / "manifest.ocdbt").unlink(),
    ],
    ids=[
        "data cut short",
        "data missing",
        "item missing",
        "metadata cut short",
        "manifest missing",
    ],
)
def test_a_damaged_checkpoint_is_named(workdir, damage):
    damage(workdir / "checkpoints" / "2")
    with pytest.raises(UsageError, match=r"checkpoints/2.* damaged or incomplete"):
        load_stage(workdir)


def test_a_checkpoint_of_another_network_is_refused(workdir):
    config = tiny.stage(unet={"embed_dim": 16})
    (workdir / "config.json").unlink()
    for leftover in workdir.iterdir():
        leftover.rename(workdir.parent / leftover.name)
    claim_directory(workdir, config)
    (workdir.parent / "checkpoints").rename(workdir / "checkpoints")
    with pytest.raises(UsageError, match="checkpoints/2"):
        load_directory(workdir, make_mesh(MeshConfig()))


def test_a_directory_without_a_checkpoint_or_config_says_so(tmp_path):
    claim_directory(tmp_path / "new", tiny.stage())
    (tmp_path / "new" / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="holds no checkpoint yet"):
        load_stage(tmp_path / "new")
    with pytest.raises(UsageError, match=r"it holds no config\.json"):
        read_config(tmp_path)
    with pytest.raises(UsageError, match="neither a training directory nor an exported stage"):
        load_stage(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "_METADATA"),
        ValueError("PERMISSION_DENIED: Error reading: Permission denied"),
    ],
)
def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(error, workdir, monkeypatch):
    """Permissions are not asked of the superuser, who may well run the tests."""
    checkpoints = Checkpoints(workdir)
    monkeypatch.setattr(checkpoints._manager, "restore", mock.Mock(side_effect=error))
    with pytest.raises(UsageError, match=r"checkpoints/2 cannot be read: .*Permission denied\."):
        checkpoints.restore_ema({})


def test_a_checkpoint_that_cannot_be_written_is_named(workdir):
    checkpoints = Checkpoints(workdir, keep=2)
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").write_text("in the way")
    with pytest.raises(UsageError, match=r"checkpoint in .*/checkpoints cannot be written: "):
        checkpoints.save(make_state(tiny.stage(), 3))
        checkpoints.close()


@pytest.mark.parametrize("call", ["save", "close"])
def test_what_fails_in_the_background_is_named(call, workdir, monkeypatch):
    checkpoints = Checkpoints(workdir, keep=2)
    fail = mock.Mock(side_effect=ValueError("RESOURCE_EXHAUSTED: No space left on device\nat x"))
    monkeypatch.setattr(checkpoints._manager, call, fail)
    with pytest.raises(UsageError, match="cannot be written: .*No space left on device.$"):
        checkpoints.save(make_state(tiny.stage(), 3)) if call == "save" else checkpoints.close()


def test_reads_that_orbax_abandons_are_not_warned_of_later(workdir, monkeypatch):
    async def read():
        pass

    def fail(*_, **__):
        abandoned = [read()]
        abandoned.append(abandoned)  # Only the garbage collector finds it.
        raise Exception("array index unreadable")

    checkpoints = Checkpoints(workdir)
    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(UsageError, match="array index unreadable"):
            checkpoints.restore_ema({})
        gc.collect()
    assert not [warning for warning in shown if "never awaited" in str(warning.message)]
