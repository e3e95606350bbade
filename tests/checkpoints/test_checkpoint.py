"""Checkpoints: what they hold, and the way back from damaged ones."""

import contextlib
import gc
import json
import shutil
import types
import warnings
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
import tiny
from scripts import cut, largest, tree

from imagen_jax.checkpoints import checkpoint
from imagen_jax.checkpoints.checkpoint import Checkpoints, newest_step
from imagen_jax.checkpoints.checksums import checksums
from imagen_jax.checkpoints.directory import claim_directory, is_training_directory, read_config
from imagen_jax.checkpoints.readback import missing
from imagen_jax.checkpoints.state import TrainState
from imagen_jax.checkpoints.weights import load_directory
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.storage.digests import sealed, unsealed
from imagen_jax.stored.stages import load_weights

CONFIG = tiny.stage()


def make_state(config, step, seed=0):
    return jax.tree.map(jnp.asarray, tiny.state(config, step, seed))


def small_state(step):
    """A few arrays, as a state that is quickly saved and restored."""
    rng = np.random.default_rng(step)
    params = {"unet": {"kernel": rng.normal(size=(32, 40)), "bias": rng.normal(size=40)}}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    moments = jax.tree.map(lambda x: (x + 2).astype(jnp.bfloat16), params)
    return TrainState(
        step=jnp.array(step, jnp.int32),
        params=params,
        ema=jax.tree.map(lambda x: x + 1, params),
        opt_state=({"mu": moments, "count": jnp.array(step, jnp.int32)},),
    )


def items_of(state):
    return {"params": state.params, "ema": state.ema, "opt_state": state.opt_state}


def abstract(state):
    """What to restore; every array lies where it does in `state`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items_of(state)
    )


def opened(workdir, keep=None):
    return contextlib.closing(Checkpoints(workdir, keep))


def restore(workdir, like):
    with opened(workdir) as checkpoints:
        return checkpoints.restore(lambda _: abstract(like))


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def write(workdir, states, keep=3):
    claim_directory(workdir, CONFIG)
    with opened(workdir, keep) as checkpoints:
        for state in states:
            checkpoints.save(state, CONFIG, pictures=8 * int(state.step))
    return workdir


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A training directory with checkpoints of steps 1 and 2."""
    states = [make_state(CONFIG, step, seed=step) for step in (1, 2)]
    return write(tmp_path_factory.mktemp("runs") / "stage", states)


@pytest.fixture
def workdir(written, tmp_path):
    return shutil.copytree(written, tmp_path / "stage")


@pytest.fixture(scope="module")
def written_small(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "small", map(small_state, (1, 2)))


@pytest.fixture
def small(written_small, tmp_path):
    return shutil.copytree(written_small, tmp_path / "small")


def test_the_newest_state_comes_back(workdir):
    state = make_state(CONFIG, 2, seed=2)
    restored = restore(workdir, state)
    assert_same(restored.items, items_of(state))
    assert (restored.step, restored.about.pictures, restored.about.config) == (2, 16, CONFIG)
    assert restored.about.versions["jax"] == jax.__version__


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_stage_is_loaded_with_the_weights_that_were_asked_for(workdir, weights):
    config, params = load_directory(workdir, make_mesh(MeshConfig()), weights)
    state = make_state(CONFIG, 2, seed=2)
    assert config == CONFIG
    assert_same(params, {"ema": state.ema, "raw": state.params}[weights])
    assert is_training_directory(workdir)


def test_only_the_last_checkpoints_are_kept(small):
    with opened(small, keep=2) as checkpoints:
        checkpoints.save(small_state(3), CONFIG, 24)
    assert sorted(path.name for path in (small / "checkpoints").iterdir()) == ["2", "3"]


def test_versions_are_beside_the_config(workdir):
    versions = json.loads((workdir / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    assert read_config(workdir) == CONFIG


# Sums.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_checksums_are_what_they_say(dtype):
    x = np.random.default_rng(0).normal(size=(5, 6, 7)) * 1000
    x = jnp.asarray(x, dtype)
    bits = np.asarray(x).view(f"uint{8 * x.dtype.itemsize}").ravel().astype(int)
    expected = sum((2 * i + 1) * int(w) for i, w in enumerate(bits)) % 2**32
    sharding = jax.sharding.NamedSharding(
        make_mesh(MeshConfig(fsdp=2)), jax.sharding.PartitionSpec(None, "fsdp")
    )
    for placed in (x, jax.device_put(x, sharding)):
        assert checksums({"a": [placed]}) == {"a.0": expected}


def test_checksums_tell_what_disks_do():
    x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    zeroed, exchanged, flipped = x.copy(), x.copy(), x.copy()
    zeroed[8:16] = 0
    exchanged[8:16], exchanged[16:24] = x[16:24], x[8:16]
    flipped.view(np.uint32)[3, 5] ^= 2**31
    sums = {checksums([jnp.asarray(y)])["0"] for y in (x, zeroed, exchanged, flipped)}
    assert len(sums) == 4


# Damage.


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = (cut, zero, Path.unlink)


def files(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


@pytest.mark.parametrize("shift", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
def test_whatever_is_damaged_the_newest_whole_checkpoint_comes_back(shift, small, tmp_path):
    """Each file in turn, by each damage in turn.

    Of files that nothing is read from, the damage does not matter; the state is right.
    """
    newest, before, like = small / "checkpoints" / "2", items_of(small_state(1)), small_state(2)
    intact = shutil.copytree(newest, tmp_path / "intact")
    fell_back = set()
    for number, name in enumerate(files(intact)):
        DAMAGES[(number + shift) % len(DAMAGES)](newest / name)
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            restored = restore(small, like)
        said = [str(warning.message) for warning in shown]
        if restored.step == 2:
            assert_same(restored.items, items_of(like))
            assert not said
        else:
            assert_same(restored.items, before)
            assert restored.about.pictures == 8
            assert len(said) == 1, said
            assert f"{newest} is damaged or incomplete (" in said[0]
            assert "that of step 1 is used" in said[0]
            fell_back.add(name)
        shutil.rmtree(newest)
        shutil.copytree(intact, newest)
    needed = {f"{item}/manifest.ocdbt" for item in items_of(like)} | {"about/metadata"}
    assert needed | {str(largest(intact).relative_to(intact))} <= fell_back


@pytest.mark.parametrize("value", [{"metrics": [1]}, {"commit_timestamp_nsecs": 10**30}, [1]])
def test_what_orbax_notes_beside_a_checkpoint_is_not_needed(value, small):
    for step in (1, 2):
        note = small / "checkpoints" / str(step) / "_CHECKPOINT_METADATA"
        assert note.is_file()
        note.write_text(json.dumps(value))
    assert_same(restore(small, small_state(2)).items, items_of(small_state(2)))
    with opened(small, keep=3) as checkpoints, pytest.warns(UserWarning, match="is kept as"):
        checkpoints.set_aside(newer_than=1)
        assert checkpoints.steps() == [1]


def test_numbers_that_changed_unnoticed_by_the_format_are_noticed(small):
    """As if a file had been zeroed below the format's own checks."""
    about = small / "checkpoints" / "2" / "about" / "metadata"
    content = unsealed(json.loads(about.read_text()), "about")
    content["checksums"]["opt_state"]["0.mu.unet.bias"] ^= 1
    about.write_text(json.dumps(sealed(content)))
    with pytest.warns(UserWarning, match=r"\(1 arrays of opt_state do not add up\)"):
        assert restore(small, small_state(2)).step == 1
    del content["checksums"]["ema"]
    about.write_text(json.dumps(sealed(content)))
    with pytest.warns(UserWarning, match="2 arrays of ema do not add up"):
        assert restore(small, small_state(2)).step == 1


@pytest.mark.parametrize(
    ("was", "now"),
    [('"pictures": 16', '"pictures": 24'), ('"name": "adam"', '"name": "adafactor"')],
)
def test_what_a_checkpoint_says_of_itself_is_known_again(was, now, small):
    """Other moments or other data would be gone on with, and nobody would know."""
    about = small / "checkpoints" / "2" / "about" / "metadata"
    said = json.dumps(json.loads(about.read_text()))
    assert was in said
    about.write_text(said.replace(was, now))
    with pytest.warns(
        UserWarning, match=r"checkpoints/2 is damaged .*it does not match its sha256"
    ):
        assert restore(small, small_state(2)).step == 1


def test_an_array_that_the_metadata_do_not_name_is_missed(small):
    """Orbax restores a part, and says nothing of the rest."""
    metadata = small / "checkpoints" / "2" / "ema" / "_METADATA"
    content = json.loads(metadata.read_text())
    del content["tree_metadata"][min(content["tree_metadata"])]
    metadata.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"\(1 of 2 arrays of ema are missing\)"):
        assert restore(small, small_state(2)).step == 1


def test_a_checkpoint_of_another_step_than_its_name_is_not_used(small):
    (small / "checkpoints" / "2").rename(small / "checkpoints" / "3")
    with pytest.warns(UserWarning, match=r"checkpoints/3 is .*it was written as that of 2\)"):
        assert restore(small, small_state(2)).step == 1


def test_a_checkpoint_of_an_older_version_is_read(small):
    """It says nothing of its step and data, and has no digest."""
    about = small / "checkpoints" / "2" / "about" / "metadata"
    content = json.loads(about.read_text())
    for name in ("sha256", "step", "data"):
        del content[name]
    about.write_text(json.dumps(content))
    restored = restore(small, small_state(2))
    assert (restored.step, restored.about.step, restored.about.data) == (2, None, "")


@pytest.mark.parametrize("item", ["params", "ema"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_used(item, number, small):
    state = small_state(3)
    weights = getattr(state, item)
    bad = {"unet": {**weights["unet"], "bias": weights["unet"]["bias"].at[7].set(number)}}
    with opened(small, keep=3) as checkpoints:
        checkpoints.save(state.replace(**{item: bad}), CONFIG, 24)
    said = rf"checkpoints/3 cannot be used \({item} has numbers that are infinite or NaN\)"
    with pytest.warns(UserWarning, match=rf"{said}; that of step 2 is used\."):
        assert restore(small, small_state(2)).step == 2


# What is written is there.


@pytest.mark.parametrize("name", ["run [v2]", "[ab]*?", "100% {a} ü 'b' #1", "**"])
def test_any_path_will_do(name, tmp_path):
    workdir = write(tmp_path / name / "run", [small_state(1)])
    assert_same(restore(workdir, small_state(1)).items, items_of(small_state(1)))


@pytest.mark.parametrize("file", ["params/manifest.ocdbt", "about/metadata"])
def test_a_first_checkpoint_that_cannot_be_read_ends_the_run_at_once(file, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    wait = checkpoints._manager.wait_until_finished

    def lose():
        wait()
        (tmp_path / "checkpoints" / "1" / file).unlink(missing_ok=True)

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", lose)
    with pytest.raises(UsageError, match=r"checkpoints/1 was written and cannot be read: .+\.$"):
        checkpoints.save(small_state(1), CONFIG, 8)
    checkpoints.close()


def test_a_later_checkpoint_is_looked_at_when_the_next_one_is_due(small):
    with opened(small, keep=4) as checkpoints:
        for step in (3, 4):
            checkpoints.save(small_state(step), CONFIG, 8 * step)
        checkpoints._manager.wait_until_finished()
        shutil.rmtree(small / "checkpoints" / "4" / "ema")
        with pytest.raises(UsageError, match="checkpoints/4 was written and cannot be read"):
            checkpoints.save(small_state(5), CONFIG, 40)


def test_what_is_missing_of_an_item_is_named(small):
    item = small / "checkpoints" / "2" / "params"
    names = ["unet.bias", "unet.kernel"]
    assert missing(item, names) == []
    assert missing(item, [*names, "unet.other"]) == ["unet.other"]
    base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}
    store = tensorstore.KvStore.open(base).result()
    [part] = [key for key in store.list().result() if key.startswith(b"unet.kernel/0")]
    store.delete_range(tensorstore.KvStore.KeyRange(part, part + b"\0")).result()
    assert missing(item, names) == ["unet.kernel"]


def test_reading_changes_nothing_also_where_something_is_damaged(workdir):
    zero(largest(workdir / "checkpoints" / "2" / "ema"))
    before = tree(workdir)
    with pytest.warns(UserWarning, match=r"checkpoints/2 is damaged .* step 1 is used"):
        stage = load_weights(workdir)
    assert_same(stage.params, make_state(CONFIG, 1, seed=1).ema)
    assert tree(workdir) == before


@pytest.mark.parametrize("steps", [(1, 2), (2,)])
def test_where_nothing_is_whole_it_is_said_and_nothing_is_moved(steps, small):
    if 1 not in steps:
        shutil.rmtree(small / "checkpoints" / "1")
    for step in steps:
        cut(largest(small / "checkpoints" / str(step) / "params"))
    before = tree(small)
    others = "and so are all before it" if len(steps) > 1 else "there is no other"
    with pytest.raises(UsageError, match=rf"checkpoints/2 is damaged .*{others}\.$"):
        restore(small, small_state(2))
    assert tree(small) == before


def test_what_is_damaged_stays_when_its_step_is_saved_again(small):
    """Orbax deletes a directory that stands where it saves; and old ones, beyond `keep`."""
    checkpoints = small / "checkpoints"
    before, contents = shutil.copytree(checkpoints / "1", small.parent / "before"), []
    for _ in range(2):
        zero(largest(checkpoints / "2" / "params"))
        contents.append(tree(checkpoints / "2"))
        with opened(small, keep=1) as saved, pytest.warns(UserWarning, match=r"kept as .*damaged/"):
            saved.set_aside(newer_than=1)
            assert saved.steps() == [1]
            saved.save(small_state(2), CONFIG, 16)
        assert [path.name for path in checkpoints.iterdir()] == ["2"]
        assert_same(restore(small, small_state(2)).items, items_of(small_state(2)))
        shutil.copytree(before, checkpoints / "1")
    assert [tree(small / "damaged" / name) for name in ("2", "2.1")] == contents


def test_a_write_that_was_killed_is_no_checkpoint_and_is_cleared_away(small):
    unfinished = small / "checkpoints" / "3.orbax-checkpoint-tmp"
    shutil.copytree(small / "checkpoints" / "2" / "ema", unfinished / "ema")
    assert restore(small, small_state(2)).step == 2
    assert unfinished.exists()  # A reader leaves it alone.
    with opened(small, keep=3) as checkpoints:
        checkpoints.save(small_state(5), CONFIG, 40)
    assert not unfinished.exists()
    assert restore(small, small_state(5)).step == 5


def test_what_one_process_cannot_read_no_process_uses(small, monkeypatch):
    """All must go on from the same step."""

    def said_by_all(text):
        """This process, and one that finds checkpoint 2 damaged."""
        asked.append(text)
        return [text, "is damaged or incomplete (there)" if len(asked) == 2 else ""]

    asked = []
    monkeypatch.setattr(distributed, "said_by_all", said_by_all)
    with pytest.warns(UserWarning, match=r"checkpoints/2 is damaged or incomplete \(there\)"):
        assert restore(small, small_state(2)).step == 1


def test_the_first_process_says_which_checkpoints_there_are(small, monkeypatch):
    monkeypatch.setattr(distributed, "said_by_all", lambda text: ["[7, 1]", text])
    with opened(small) as checkpoints:
        assert checkpoints.steps() == [7, 1]
    assert newest_step(small) == 7


def unsealed_anyhow(text):
    return {name: value for name, value in json.loads(text).items() if name != "sha256"}


def test_a_checkpoint_of_another_network_is_refused(workdir):
    path = workdir / "config.json"
    changed = path.read_text().replace('"embed_dim": 8', '"embed_dim": 16')
    path.write_text(json.dumps(sealed(unsealed_anyhow(changed))))
    with pytest.raises(UsageError, match="checkpoints/2"):
        load_directory(workdir, make_mesh(MeshConfig()))


def test_a_directory_without_a_checkpoint_or_config_says_so(tmp_path):
    claim_directory(tmp_path / "new", CONFIG)
    assert newest_step(tmp_path / "new") is None
    (tmp_path / "new" / "checkpoints").mkdir()
    assert newest_step(tmp_path / "new") is None
    with pytest.raises(UsageError, match="holds no checkpoint yet"):
        load_weights(tmp_path / "new")
    with pytest.raises(UsageError, match=r"it holds no config\.json"):
        read_config(tmp_path)
    with pytest.raises(UsageError, match="neither a training directory nor an exported stage"):
        load_weights(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "_METADATA"),
        ValueError("PERMISSION_DENIED: Error reading: Permission denied"),
    ],
)
def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(error, small, monkeypatch):
    """Permissions are not asked of the superuser, who may well run the tests."""
    monkeypatch.setattr(checkpoint, "_read_arrays", mock.Mock(side_effect=error))
    with pytest.raises(UsageError, match=r"checkpoints/2 cannot be read: .*Permission denied\."):
        restore(small, small_state(2))


def test_a_checkpoint_that_cannot_be_written_is_named(small):
    checkpoints = Checkpoints(small, keep=2)
    shutil.rmtree(small / "checkpoints")
    (small / "checkpoints").write_text("in the way")
    with pytest.raises(UsageError, match=r"checkpoint in .*/checkpoints cannot be written: "):
        checkpoints.save(small_state(3), CONFIG, 24)
        checkpoints.close()


@pytest.mark.parametrize("call", ["save", "close"])
def test_what_fails_in_the_background_is_named(call, small, monkeypatch):
    checkpoints = Checkpoints(small, keep=2)
    fail = mock.Mock(side_effect=ValueError("RESOURCE_EXHAUSTED: No space left on device\nat x"))
    monkeypatch.setattr(checkpoints._manager, call, fail)
    with pytest.raises(UsageError, match="cannot be written: .*No space left on device.$"):
        checkpoints.save(small_state(3), CONFIG, 24) if call == "save" else checkpoints.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_reads_that_orbax_abandons_are_not_heard_of_later(small, monkeypatch):
    async def read():
        pass

    @types.coroutine
    def for_ever():
        yield

    async def reading():
        try:
            await for_ever()
        finally:
            raise Exception("nobody waits for this")

    def fail(*_, **__):
        started = reading()
        started.send(None)
        abandoned = [read(), started]
        abandoned.append(abandoned)  # Only the garbage collector finds it.
        raise Exception("array index unreadable")

    with warnings.catch_warnings(record=True) as shown:
        monkeypatch.setattr(checkpoint, "_read_arrays", fail)
        warnings.simplefilter("always")
        with pytest.raises(UsageError, match="array index unreadable"):
            restore(small, small_state(2))
        gc.collect()
    assert not [warning for warning in shown if "never awaited" in str(warning.message)]
