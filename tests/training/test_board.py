"""TensorBoard's file: written where it is asked for, and what happens where that fails."""

import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog

from imagen_jax.errors import UsageError
from imagen_jax.training.board import Board


def events(directory):
    """Records are: length, its sum, the event, its sum."""
    [file] = directory.iterdir()
    data, found = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_numbers_and_pictures_are_events_of_their_step(tmp_path):
    board = Board(tmp_path / "board", 5)
    board.add_scalar("loss", 0.5, 5)
    board.add_image("samples", np.zeros((2, 3, 3), np.uint8), 6)
    board.close()
    _, version, start, loss, samples = events(tmp_path / "board")
    assert (version.file_version, start.session_log.status) == ("brain.Event:2", SessionLog.START)
    assert {version.step, start.step, loss.step, samples.step} == {5, 6} and samples.step == 6
    assert loss.summary.value[0].tag == "loss" and loss.wall_time > 1e9
    image = samples.summary.value[0].image
    assert (image.height, image.width) == (2, 3)


@pytest.mark.parametrize("name", ["write", "flush", "close"])
def test_a_full_disk_is_said_in_the_thread_that_writes(tmp_path, monkeypatch, name):
    """After it, closing fails too, and says so too."""

    def full(*_):
        raise OSError(28, "No space left on device")

    said = r"board cannot be written: No space left on device\.$"
    monkeypatch.setattr("imagen_jax.training.board._FLUSH_SECONDS", 0 if name == "flush" else 1e9)
    if name == "close":
        board = Board(tmp_path / "board", 1)
        monkeypatch.setattr(record_writer.RecordWriter, name, full)
        with pytest.raises(UsageError, match=said):
            board.close()
    else:
        monkeypatch.setattr(record_writer.RecordWriter, name, full)
        with pytest.raises(UsageError, match=said):
            Board(tmp_path / "board", 1)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "board").write_text("in the way")
    with pytest.raises(UsageError, match="board/x cannot be written: "):
        Board(tmp_path / "board" / "x", 1)
