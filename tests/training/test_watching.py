"""What a whole run writes while it is watched, and what it does about steps that are not finite."""

import itertools
import json
import shutil
import struct

import jax
import numpy as np
import pytest
import runs
import tiny
from PIL import Image
from scripts import call, verbs
from tensorboardX.proto.event_pb2 import Event

from imagen_jax.training import loop, trainer
from imagen_jax.training.loop import run
from imagen_jax.training.metrics import BrokenParameters, TooManySkipped
from imagen_jax.training.metrics_file import read_metrics


def logged(workdir):
    """The lines of metrics.jsonl as they are."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def board(workdir):
    """(tag, step) -> number, or PNG, of all that TensorBoard was given."""
    found = {}
    for path in (workdir / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])  # Then a checksum, the record, a checksum.
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            for value in event.summary.value:
                image = value.HasField("image")
                content = value.image.encoded_image_string if image else value.simple_value
                found[value.tag, event.step] = content
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A super-resolution run of four steps that is looked at in every way."""
    directory = tmp_path_factory.mktemp("watched")
    data = tiny.replace(
        tiny.folder(directory / "data"), eval_source=tiny.folder(directory / "held_out").source
    )
    config = tiny.super_resolution(
        data=data,
        training={"log_every": 2, "eval_every": 2, "eval_batches": 1, "sample_every": 4},
    )
    run(config, directory / "run", profile=range(2, 4))
    return directory / "run"


@pytest.mark.slow
def test_all_that_a_run_measures_is_logged(watched):
    often = {
        "loss", "loss_by_time", "gradient_norm", "parameter_norm", "ema_distance",
        "learning_rate", "skipped", "pictures_per_second", "pictures_per_second_per_chip",
        "model_flops_per_second_per_chip", "data_wait", "seconds",
    }  # fmt: skip
    always, evaluated = {"step", "pictures_seen"}, {"eval_loss_ema", "eval_loss_raw"}
    found = [(line["step"], set(line) - always) for line in logged(watched)]
    # A CPU has neither HBM nor a peak that is known.
    assert found == [
        (2, often), (2, evaluated), (4, often), (4, evaluated), (4, {"colour_drift"}),
    ]  # fmt: skip
    for line in read_metrics(watched):
        assert line["pictures_seen"] == 8 * line["step"]
        assert line["skipped"] == 0 and line["learning_rate"] == pytest.approx(1e-3)
        assert 0 <= line["data_wait"] <= 1
        per_chip = line["pictures_per_second_per_chip"]
        assert line["pictures_per_second"] == pytest.approx(8 * per_chip)
        known = [loss for loss in line["loss_by_time"] if loss is not None]
        assert len(line["loss_by_time"]) == 10 and min(known) <= line["loss"] <= max(known)


@pytest.mark.slow
def test_tensorboard_gets_the_same_and_the_pictures(watched):
    shown = board(watched)
    for line in logged(watched):
        for name, value in line.items():
            if name not in ("step", "loss_by_time"):
                assert shown[name, line["step"]] == pytest.approx(value, rel=1e-6)
        for index, loss in enumerate(line.get("loss_by_time", [])):
            tag = f"loss_by_time/{index / 10:.1f}-{(index + 1) / 10:.1f}"
            assert shown.get((tag, line["step"])) == (loss and pytest.approx(loss, rel=1e-6))
    picture = shown["samples", 4]
    (watched.parent / "shown.png").write_bytes(picture)
    sheet = Image.open(watched.parent / "shown.png").convert("RGB")
    saved = Image.open(watched / "samples" / "00000004.png")
    np.testing.assert_array_equal(np.asarray(sheet), np.asarray(saved))
    assert not list(watched.rglob("*.tmp"))


@pytest.mark.slow
def test_the_window_of_the_flag_is_profiled(watched):
    (trace,) = (watched / "profile").rglob("*.xplane.pb")
    assert b"train_step" in trace.read_bytes()


@pytest.mark.slow
def test_it_can_be_plotted(watched):
    out = watched.parent / "curves.png"
    result = call(verbs, "plot", watched, "--out", out)
    assert (result.code, result.out) == (0, f"{out}\n")
    assert Image.open(out).width > 1000


# Steps that are not finite.


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = tiny.folder(tmp_path_factory.mktemp("finite") / "data")
    return tiny.stage(data=data, training={"max_skipped_in_a_row": 3})


@pytest.fixture
def feed(monkeypatch, no_type_checks):
    """feed(bad) makes runs read float pictures, in which the batches of the steps `bad` hold a
    NaN: one pixel of one picture.
    """

    def set_up(bad):
        def open_reader(trainer, *_, first_picture, **__):
            for step in itertools.count(first_picture // 8 + 1):
                batch = tiny.batch(trainer.config, seed=step)
                batch["image"] = batch["image"].astype(np.float32)
                if step in bad:
                    batch["image"][3, 2, 1, 0] = np.nan
                yield batch

        monkeypatch.setattr(loop, "open_reader", open_reader)

    return set_up


def steps(config, count, **training):
    return tiny.replace(config, training={"num_steps": count, **training})


def learned(state):
    """All of a state but its step."""
    return jax.tree.leaves((state.params, state.ema, state.opt_state))


@pytest.fixture
def stopped(config, feed, tmp_path):
    """A run that skips steps 2, 4 and 5, and from 8 on all; there is a checkpoint of step 7."""
    feed({2, 4, 5, *range(8, 100)})
    says = r"^Step 10: loss is nan, and 3 updates in a row were skipped"
    with pytest.raises(TooManySkipped, match=says):
        run(steps(config, 100, checkpoint_every=7), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_what_is_not_finite_is_skipped_counted_and_too_much_of_it_stops_the_run(
    config, feed, stopped
):
    """The metrics are read one step late: of step 10 when step 11 has been started."""
    lines = logged(stopped)
    skipped = [0, 1, 0, 1, 1, 0, 0, 1, 1, 1]
    assert [line["skipped"] for line in lines] == skipped
    assert ["loss" in line for line in lines] == [not skip for skip in skipped]
    after = runs.saved(config, stopped)
    assert after.step == 11
    # What was wrong with the data is mended: the run goes on from there.
    resumed = shutil.copytree(stopped, stopped.with_name("resumed"))
    feed(())
    run(steps(config, 13), resumed)
    assert [line["skipped"] for line in logged(resumed)] == [*skipped, 0, 0]
    # The state that was saved is that from before them.
    shutil.rmtree(stopped / "checkpoints" / "11")
    before = runs.saved(config, stopped)
    assert before.step == 7
    for left, right in zip(learned(after), learned(before), strict=True):
        np.testing.assert_array_equal(left, right)
        assert np.isfinite(left).all()


@pytest.mark.slow
def test_a_stop_where_a_checkpoint_is_due_saves_once(config, feed, tmp_path):
    """Before a checkpoint the step's own metrics are read."""
    feed(range(2, 10**6))
    with pytest.raises(TooManySkipped, match="^Step 4: "):
        run(steps(config, 4), tmp_path / "run")
    assert runs.saved(config, tmp_path / "run").step == 4


@pytest.mark.slow
def test_parameters_that_are_not_finite_are_never_saved(config, feed, tmp_path, monkeypatch):
    feed(())
    init = trainer.init_state

    def broken(*inputs):
        state = init(*inputs)
        return state.replace(params=jax.tree.map(lambda x: x + np.nan, state.params))

    monkeypatch.setattr(trainer, "init_state", broken)
    with pytest.raises(BrokenParameters, match="^Step 1: parameter_norm is nan"):
        run(steps(config, 4, checkpoint_every=1), tmp_path / "run")
    assert not runs.steps(tmp_path / "run")
