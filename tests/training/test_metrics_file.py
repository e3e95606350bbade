"""metrics.jsonl: appended to, cut back on resume, and read while it is written."""

import json

import pytest

from imagen_jax.errors import UsageError
from imagen_jax.training.metrics_file import MetricsFile, read_metrics

GOOD = b'{"step": 1, "loss": 2.0, "pictures_seen": 8}\n'


def line(step, **measured):
    return {"step": step, "pictures_seen": 8 * step, **measured}


def write(workdir, lines, first_step=0):
    workdir.mkdir(exist_ok=True, parents=True)
    file = MetricsFile(workdir, first_step)
    for written in lines:
        file.append(written)
    return workdir / "metrics.jsonl"


@pytest.fixture(params=["here", "bucket"])
def workdir(request, tmp_path):
    """A training directory on this machine, or in a bucket that is held in memory."""
    return tmp_path / "run" if request.param == "here" else request.getfixturevalue("bucket")


def test_lines_are_appended_as_json(workdir):
    path = write(workdir, [line(1, loss=0.5), line(2, loss_by_time=[1.0, None])])
    assert [json.loads(text) for text in path.read_text().splitlines()] == [
        line(1, loss=0.5), line(2, loss_by_time=[1.0, None]),
    ]  # fmt: skip


def test_a_resumed_run_takes_the_place_of_what_came_after_its_checkpoint(workdir):
    write(workdir, [line(step, loss=1.0) for step in range(1, 7)])
    write(workdir, [line(step, loss=2.0) for step in (5, 6, 7)], first_step=4)
    assert [(m["step"], m["loss"]) for m in read_metrics(workdir)] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), (6, 2.0), (7, 2.0),
    ]  # fmt: skip


def test_a_line_that_a_crash_cut_off_is_taken_out_on_resume(workdir):
    path = write(workdir, [line(1)])
    path.write_text(path.read_text() + '{"step": 2, "pictu')
    assert [m["step"] for m in read_metrics(workdir)] == [1]
    with pytest.warns(UserWarning, match=r"\(2\) is kept in metrics\.jsonl\.damaged\.$"):
        write(workdir, [line(2)], first_step=1)
    assert path.read_text() == json.dumps(line(1)) + "\n" + json.dumps(line(2)) + "\n"


def test_a_local_file_is_not_written_again_for_each_line(tmp_path):
    path = write(tmp_path / "run", [line(1)])
    inode = path.stat().st_ino
    write(tmp_path / "run", [line(2)], first_step=1)
    assert path.stat().st_ino == inode


def test_lines_of_one_step_are_one_and_the_later_number_counts(tmp_path):
    write(tmp_path, [line(2, loss=1.0, lr=0.1), line(2, eval_loss=3.0), line(2, loss=2.0)])
    assert read_metrics(tmp_path) == [line(2, loss=2.0, lr=0.1, eval_loss=3.0)]


def test_a_number_that_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write(tmp_path, [line(1, loss=float("nan"))])


def test_a_file_that_cannot_be_appended_to_is_named(tmp_path):
    file = MetricsFile(tmp_path, 0)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"metrics\.jsonl cannot be written: Is a directory\.$"):
        file.append(line(1))


DAMAGED = (
    b"{",
    b'{"step": 1, "loss": "\xff", "pictures_seen": 8}',
    b"\0" * 40,
    b"[1]",
    b'{"step": 1, "loss": 2.0}',
    b'{"step": "1", "loss": 2.0, "pictures_seen": 8}',
    b'{"step": 1, "loss": "low", "pictures_seen": 8}',
    b'{"step": 1, "loss": "0.5", "pictures_seen": 8}',
    b'{"step": true, "loss": 0.5, "pictures_seen": 8}',
    b'{"step": 1, "loss": 0.5, "pictures_seen": -8}',
    b'{"step": 1, "loss": 0.5, "pictures_seen": 9223372036854775808}',
    b'{"step": 1, "loss": 1' + b"0" * 400 + b', "pictures_seen": 8}',
    b"[" * 100_000,
)


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_line_is_named_and_kept_aside_and_the_run_goes_on(workdir, damaged):
    path = write(workdir, [line(1), line(2)])
    path.write_bytes(GOOD + damaged + b"\n" + GOOD)
    with pytest.warns(
        UserWarning, match=r"metrics\.jsonl: 1 damaged line \(2\) is kept in metrics"
    ):
        write(workdir, [line(2)], first_step=1)
    kept = workdir / "metrics.jsonl.damaged"
    assert kept.read_bytes() == damaged + b"\n"
    assert [m["step"] for m in read_metrics(workdir)] == [1, 2]
    path.write_bytes(GOOD + b"{\n")
    with pytest.warns(UserWarning, match=r"line \(2\)"):
        write(workdir, [], first_step=1)
    assert kept.read_bytes() == damaged + b"\n{\n"


def test_many_damaged_lines_are_one_warning(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(GOOD + b"{\n" * 7)
    with pytest.warns(
        UserWarning, match=r"7 damaged lines \(2, 3, 4, 5, 6 and 2 more\) are kept"
    ) as warned:
        write(tmp_path, [], first_step=1)
    assert len(warned) == 1


@pytest.mark.parametrize("damaged", DAMAGED)
def test_curves_are_drawn_of_what_is_whole(tmp_path, damaged):
    (tmp_path / "metrics.jsonl").write_bytes(GOOD + damaged + b"\n")
    with pytest.warns(UserWarning, match=r": 1 damaged line \(2\) is left out\.$"):
        assert [m["step"] for m in read_metrics(tmp_path)] == [1]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "no metrics.jsonl"),
        (b"", "empty"),
        (b"{", "empty"),
        (b"{\n", "holds no line of metrics; its line 1 is none"),
    ],
)
def test_what_is_no_run_is_an_error(tmp_path, content, rule):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=rule):
        read_metrics(tmp_path)
