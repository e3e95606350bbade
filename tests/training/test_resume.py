"""Interrupted runs go on as if nothing had happened; hopeless ones stop and say why."""

import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import runs
import tiny
from scripts import tree

from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.training import loop
from imagen_jax.training.directory import claim_directory, read_config
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


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(config, directory, straight):
    """Parameters, EMA, optimizer state and data; the break is between two checkpoints."""
    workdir = directory / "broken"
    run(steps(config, 3), workdir)
    assert runs.steps(workdir)[0] == 3
    run(steps(config, 6), workdir)
    assert straight.step == 6
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
        (
            {"optimizer": {"learning_rate": 0.5}},
            r"optimizer\.learning_rate = 0\.001 .* 0\.5; .* --allow-change optimizer.learning_rate",
        ),
        ({"training": {"batch_size": 16}}, r"training\.batch_size = 8 .* 16; .*--allow-change"),
        ({"diffusion": {"schedule": "linear"}}, r"diffusion\.schedule = 'cosine' .* 'linear'"),
        ({"name": "other"}, "name = 'tiny' .* 'other'; resume with the same value or choose"),
        ({"unet": {"embed_dim": 16}}, r"unet\.embed_dim = 8 .* 16; .* same value or choose"),
    ],
)
def test_the_directory_of_another_config_is_refused_untouched(
    config, directory, straight, changes, says
):
    before = tree(directory / "straight")
    with pytest.raises(UsageError, match=says):
        run(tiny.replace(config, **changes), directory / "straight")
    assert tree(directory / "straight") == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("optimizer.rate", r"--allow-change optimizer\.rate: a config has no such field"),
        ("optimizer", "optimizer: a config has no such field"),
        ("unet.embed_dim", "networks and pictures of a run stay as they are"),
        ("resolution", "networks and pictures of a run stay as they are"),
    ],
)
def test_a_field_that_cannot_change_is_refused(config, directory, straight, name, says):
    before = tree(directory / "straight")
    with pytest.raises(UsageError, match=says):
        claim_directory(directory / "straight", config, [name])
    assert tree(directory / "straight") == before


def test_one_field_that_may_change_lets_no_other_change(config, directory, straight):
    changed = tiny.replace(config, optimizer={"learning_rate": 0.5, "ema_decay": 0.5})
    with pytest.raises(UsageError, match=r"optimizer\.ema_decay"):
        claim_directory(directory / "straight", changed, ["optimizer.learning_rate"])


@pytest.fixture
def copy(directory, straight, tmp_path):
    """Of the run of six steps."""
    return shutil.copytree(directory / "straight", tmp_path / "run")


def first_resumed(monkeypatch, config, workdir, *names):
    """State, optimizer and number of the first picture with which a changed run goes on."""

    class Resumed(Exception):
        pass

    def train(trainer, start, *_):
        raise Resumed(start)

    monkeypatch.setattr(loop, "_train", train)
    with pytest.raises(Resumed) as caught:
        run(config, workdir, allow_change=names)
    return caught.value.args[0]


def test_a_changed_rate_keeps_the_moments(config, straight, copy, monkeypatch):
    changed = tiny.replace(config, optimizer={"learning_rate": 0.5, "moment_dtype": "bfloat16"})
    names = "optimizer.learning-rate", "--optimizer.moment_dtype"
    start = first_resumed(monkeypatch, changed, copy, *names)
    adam, was = start.state.opt_state[1][0], straight.opt_state[1][0]
    assert_same(adam.nu, was.nu)
    assert_same(adam.mu, jax.tree.map(lambda x: x.astype("bfloat16"), was.mu))
    assert read_config(copy) == changed
    first_resumed(monkeypatch, changed, copy)  # What has changed once needs no flag again.


@pytest.mark.parametrize("change", [{"name": "adafactor"}, {"freeze": ("unet.middle.*",)}])
def test_another_optimizer_starts_its_moments_anew_and_goes_on_with_its_schedule(
    change, config, straight, copy, monkeypatch
):
    changed = tiny.replace(config, optimizer=change)
    with pytest.warns(UserWarning, match="moments start at zero, .* that of step 6"):
        start = first_resumed(monkeypatch, changed, copy, *(f"optimizer.{x}" for x in change))
    assert_same(start.state.params, straight.params)
    assert_same(start.state.ema, straight.ema)
    assert (start.state.step, start.pictures) == (6, 48)
    schedules = jax.tree.leaves(
        start.state.opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState)
    )
    counts = [x.count for x in schedules if isinstance(x, optax.ScaleByScheduleState)]
    assert counts == [6]
    means = [x for x in jax.tree.leaves(start.state.opt_state) if x.ndim > 1]
    assert means and not any(np.any(x) for x in means if x.shape != (1,))


def test_another_batch_size_goes_on_with_the_next_picture(config, copy, monkeypatch):
    """And the checkpoints say how many pictures that makes."""
    changed = tiny.replace(config, training={"batch_size": 16, "num_steps": 8})
    seen = []
    make_dataset = loop.make_dataset

    def noted(*arguments, **settings):
        seen.append((settings["first_picture"], settings["batch_size"]))
        return make_dataset(*arguments, **settings)

    monkeypatch.setattr(loop, "make_dataset", noted)
    run(changed, copy, allow_change=["training.batch_size"])
    changed = tiny.replace(changed, training={"batch_size": 8})
    start = first_resumed(monkeypatch, changed, copy, "training.batch_size")
    assert (start.state.step, start.pictures) == (8, 6 * 8 + 2 * 16)
    assert seen == [(48, 16), (80, 8)]


def test_a_run_goes_on_from_before_what_is_damaged_and_keeps_it(config, straight, copy):
    damaged = copy / "checkpoints" / "6"
    # All that hold arrays: Orbax may keep one that it does not read.
    for path in filter(Path.is_file, (damaged / "opt_state").glob("**/d/*")):
        path.write_bytes(bytes(path.stat().st_size))
    content = tree(damaged)
    process = runs.start_process(steps(config, 6), copy)
    process.join()
    said = runs.log(copy)
    assert process.exitcode == 0, said
    assert "checkpoints/6 is damaged or incomplete" in said and "that of step 4 is used" in said
    assert f"is kept as {copy / 'damaged' / '6'}." in said
    assert tree(copy / "damaged" / "6") == content
    assert_same(runs.saved(config, copy), straight)


def test_a_run_that_was_killed_before_it_had_a_config_can_be_started_again(config, tmp_path):
    """Nothing but the file that it was writing is there."""
    left = tmp_path / "run" / ".config.json.123.tmp"
    left.parent.mkdir()
    left.write_text("{")
    claim_directory(tmp_path / "run", config)
    assert not left.exists()


def test_a_directory_with_other_things_in_it_is_refused_untouched(config, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match=r"not empty and holds no config\.json"):
        run(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_wrong_batch_size_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(UsageError, match="12 pictures does not divide over 8 devices"):
        run(tiny.replace(config, training={"batch_size": 12}), tmp_path / "new")
    assert not (tmp_path / "new").exists()
