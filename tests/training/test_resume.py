"""Interrupted runs go on as if nothing had happened; hopeless ones stop and say why."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import runs
import tiny
from scripts import tree

from imagen_jax.checkpoints.about import About, Fingerprints
from imagen_jax.checkpoints.directory import claim_directory, read_config
from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.parallel.lock import Lock
from imagen_jax.storage.digests import unsealed
from imagen_jax.training import loop
from imagen_jax.training.loop import run
from imagen_jax.training.metrics_file import read_metrics
from imagen_jax.training.start import _require_same_inputs


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.fixture
def changed_data(config):
    """A caption is written again, as it was."""
    path = Path(config.data.source.removeprefix("folder:")) / "03.txt"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    os.utime(path, ns=(times[0], times[1] + 10**9))
    yield
    os.utime(path, ns=times)


@pytest.mark.slow
def test_data_that_have_changed_are_gone_on_with_by_a_flag_only(
    config, copy, monkeypatch, changed_data
):
    before = tree(copy)
    said = r"files of folder:.* up to step 6; put back .* --allow-changed-data"
    with pytest.raises(UsageError, match=said):
        run(config, copy)
    assert tree(copy / "checkpoints") == {
        name.removeprefix("checkpoints/"): content
        for name, content in before.items()
        if name.startswith("checkpoints/")
    }
    run(steps(config, 7), copy, allow_changed_data=True)
    start = first_resumed(monkeypatch, steps(config, 8), copy)  # What is seen now is known again.
    assert start.state.step == 7


def test_other_data_that_were_allowed_need_no_second_flag(config, copy, monkeypatch, tmp_path):
    changed = tiny.replace(config, data={"source": tiny.folder(tmp_path / "other").source})
    start = first_resumed(monkeypatch, changed, copy, "data.source")
    assert start.state.step == 6


def about(config, **fingerprints):
    return About(config=config, pictures=8, checksums={}, versions={}, step=1, **fingerprints)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("data", r"The files of \S+ are not those that"),
        ("tokenizer", "The tokenizer 'captions' is not the one that"),
        ("encoder", "The text encoder of 't5' is not the one that"),
    ],
)
def test_what_a_run_reads_stays_the_same_where_it_is_known(name, said):
    config = tiny.stage(text_encoder={"train": False, "source": "t5"})
    then, now = Fingerprints(**{name: "then"}), Fingerprints(**{name: "now"})
    _require_same_inputs(about(config, **{name: "then"}), config, then)
    _require_same_inputs(about(config, **{name: "then"}), config, Fingerprints())
    _require_same_inputs(about(config), config, now)  # Of an older version.
    with pytest.raises(UsageError, match=rf"^{said} .* up to step 1; .* --allow-changed-data"):
        _require_same_inputs(about(config, **{name: "then"}), config, now)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("data", {"data": {"filters": ("side>=8",)}}),  # They leave others out.
        ("data", {"data": {"sizes": ((16, 16),)}}),
        ("encoder", {"text_encoder": {"source": "other"}}),
    ],
)
def test_what_the_config_names_anew_was_allowed_already(name, changes):
    config = tiny.stage(text_encoder={"train": False, "source": "t5"})
    then = about(config, **{name: "then"})
    _require_same_inputs(then, tiny.replace(config, **changes), Fingerprints(**{name: "now"}))


def test_a_run_whose_directory_is_in_use_is_refused(config, copy):
    before = tree(copy)
    with Lock(copy), pytest.raises(UsageError, match=f"^{copy} is in use by another run; .*"):
        run(steps(config, 7), copy)
    assert tree(copy) == before
    run(steps(config, 7), copy)


def test_a_run_that_has_done_all_its_steps_says_so(config, copy, capsys):
    for count in (6, 5):
        run(steps(config, count), copy)
        said = f"is at step 6 and training.num_steps is {count}; nothing is left to do."
        assert said in capsys.readouterr().err


def test_a_run_is_float32_whatever_jax_is_told(config, copy, monkeypatch):
    with jax.enable_x64(True):
        start = first_resumed(monkeypatch, config, copy)
    dtypes = {x.dtype.name for x in jax.tree.leaves(start.state)}
    assert dtypes == {"float32", "int32"}


@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["thesis.tex", "logs", "0001.png", "checkpoints"])
def test_a_directory_with_other_things_in_it_is_refused_untouched(config, tmp_path, name):
    for path in (tmp_path / name, tmp_path / "a.log"):
        path.write_text("all of it")
    with pytest.raises(UsageError, match=rf"holds no config\.json, but {name}; choose a new"):
        run(config, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "a.log"])


def test_a_directory_that_holds_nothing_but_logs_is_new(config, tmp_path):
    names = ["train.log", "log.txt", "123.out", "123.err", ".DS_Store", "lost+found"]
    for name in names:
        (tmp_path / name).write_text("said")
    claim_directory(tmp_path, config)
    assert read_config(tmp_path) == config
    assert all((tmp_path / name).read_text() == "said" for name in names)


def test_a_config_that_has_changed_on_the_disk_is_refused(config, tmp_path):
    """Also where it is still a config: the run would go on with other data or moments."""
    claim_directory(tmp_path / "run", config)
    path = tmp_path / "run" / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"name": "adam"', '"name": "adafactor"'))
    for read in (read_config, lambda workdir: claim_directory(workdir, config)):
        with pytest.raises(UsageError, match=r"config\.json is not as it was written"):
            read(tmp_path / "run")
    path.write_text(json.dumps(unsealed(json.loads(text), "config.json")))  # An older version's.
    assert read_config(tmp_path / "run") == config


def test_a_wrong_batch_size_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(UsageError, match="12 pictures does not divide over 8 devices"):
        run(tiny.replace(config, training={"batch_size": 12}), tmp_path / "new")
    assert not (tmp_path / "new").exists()
