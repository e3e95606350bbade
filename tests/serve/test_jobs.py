"""The queue: one at a time, in order, ended by whoever asked, and no end of one ends the rest."""

import io
import threading
import time
import zipfile

import pytest

from imagen_jax.errors import UsageError
from imagen_jax.serve import run
from imagen_jax.serve.jobs import ARCHIVE, ENDED, Busy, Cancelled, Queue
from imagen_jax.serve.limits import Limits


class Painter:
    """Paints when it is let, what the job's work says."""

    def __init__(self):
        self.let, self.painted = threading.Semaphore(0), []

    def __call__(self, job):
        while not self.let.acquire(timeout=0.01):
            if job.unwanted:
                raise Cancelled
        self.painted.append(job.work)
        if isinstance(job.work, Exception):
            raise job.work
        (job.directory / "a.png").write_bytes(b"picture")
        return [job.directory / "a.png"]


@pytest.fixture
def painter():
    return Painter()


@pytest.fixture
def queue(painter, tmp_path):
    queue = Queue(painter, tmp_path, Limits(max_waiting=2, max_kept=2))
    queue.start()
    yield queue
    queue.stop()
    assert not queue._thread.is_alive()


def add(queue, work, **inputs):
    return queue.add(work, {"command": "paint"}, inputs)


def wait(job, *states):
    until = time.monotonic() + 20
    while job.state not in states:
        assert time.monotonic() < until, job
        time.sleep(0.005)


def test_jobs_are_painted_one_at_a_time_in_their_order(queue, painter):
    first = add(queue, 0)
    wait(first, "painting")
    second, third = add(queue, 1), add(queue, 2)
    assert [queue.before(job) for job in (first, second, third)] == [0, 1, 2]
    assert (second.state, third.state) == ("waiting", "waiting")
    painter.let.release(3)
    wait(third, "done")
    assert painter.painted == [0, 1, 2]


def test_more_than_may_wait_are_sent_away(queue, painter):
    first = add(queue, 0)
    wait(first, "painting")
    others = [add(queue, 1), add(queue, 2)]
    with pytest.raises(Busy, match="2 requests wait already"):
        add(queue, 3)
    queue.cancel(others[0])
    add(queue, 4)


def test_a_job_that_waits_or_is_painted_can_be_cancelled(queue, painter, tmp_path):
    first = add(queue, 0)
    wait(first, "painting")
    second, third = add(queue, 1), add(queue, 2)
    queue.cancel(second)
    assert second.state == "cancelled" and queue.before(third) == 1
    queue.cancel(first)
    wait(first, "cancelled")
    painter.let.release()
    wait(third, "done")
    assert painter.painted == [2]
    assert [path.name for path in tmp_path.iterdir()] == [third.id]
    queue.cancel(third)
    assert third.state == "done" and third.files


def test_a_job_that_fails_ends_no_other(queue, painter, caplog):
    painter.let.release(3)
    wrong = add(queue, UsageError("The prompt is odd."))
    wait(wrong, "failed")
    broken = add(queue, ZeroDivisionError("a secret"))
    wait(broken, "failed")
    assert wrong.error == "The prompt is odd."
    assert broken.error == "The server made a mistake; its log says which."
    assert "a secret" in caplog.text
    last = add(queue, 1)
    wait(last, "done")


def test_the_archive_holds_pictures_inputs_and_command(queue, painter):
    painter.let.release()
    job = add(queue, 0, **{"image.png": b"given"})
    wait(job, "done")
    assert job.files == ["a.png", "image.png", ARCHIVE] and job.shown == ["a.png"]
    archive = zipfile.ZipFile(io.BytesIO((job.directory / ARCHIVE).read_bytes()))
    held = {name: archive.read(name) for name in archive.namelist()}
    assert held == {"a.png": b"picture", "image.png": b"given", "command.txt": b"paint\n"}


def test_the_oldest_that_have_ended_go_and_one_is_forgotten_on_demand(queue, painter, tmp_path):
    painter.let.release(4)
    jobs = []
    for work in range(4):
        jobs.append(add(queue, work))
        wait(jobs[-1], "done")
    until = time.monotonic() + 20
    while queue.get(jobs[1].id) is not None and time.monotonic() < until:
        time.sleep(0.005)
    assert [queue.get(job.id) for job in jobs] == [None, None, *jobs[2:]]
    before = (jobs[2].version, jobs[2].unwanted)
    queue.forget(jobs[2])
    assert (jobs[2].version, jobs[2].unwanted) == before  # Nobody is told of it once more.
    assert queue.get(jobs[2].id) is None
    assert [path.name for path in tmp_path.iterdir()] == [jobs[3].id]


def test_cancelled_jobs_push_no_pictures_out(queue, painter):
    painter.let.release()
    done = add(queue, 0)
    wait(done, "done")
    first = add(queue, 1)
    wait(first, "painting")
    for work in range(5):
        queue.cancel(add(queue, work))
    assert queue.get(done.id) is done


def test_it_is_said_before_the_work_that_there_is_no_room(queue, painter):
    queue.check_room()
    wait(add(queue, 0), "painting")
    add(queue, 1), add(queue, 2)
    with pytest.raises(Busy, match="2 requests wait already"):
        queue.check_room()


def test_names_of_jobs_cannot_be_guessed(queue):
    names = {add(queue, work).id for work in range(2)}
    assert len(names) == 2 and min(map(len, names)) >= 22


def test_stopping_ends_what_is_painted(painter, tmp_path):
    queue = Queue(painter, tmp_path, Limits())
    queue.start()
    job, waiting = add(queue, 0), add(queue, 1)
    wait(job, "painting")
    queue.stop()
    assert job.state == "cancelled" and waiting.state not in ENDED and painter.painted == []


def test_a_server_listens_nowhere_without_an_address():
    """An empty one, as of a variable that is not set, is every address of the machine."""
    with pytest.raises(UsageError, match="--host is ''; name an address, such as"):
        run._listen("", 0)
