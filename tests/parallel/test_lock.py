"""One run at a time has a training directory."""

import errno
import fcntl
import subprocess
import sys

import pytest

from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel.lock import Lock

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def in_use(workdir):
    return pytest.raises(UsageError, match=rf"^{workdir} is in use by another run; .*directory\.$")


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    with Lock(tmp_path / "new") as first:
        first.check()
        with in_use(tmp_path / "new"), Lock(tmp_path / "new"):
            pass
    with Lock(tmp_path / "new"):
        pass


def test_a_process_that_is_killed_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with in_use(tmp_path), Lock(tmp_path):
            pass
        process.kill()
    with Lock(tmp_path):
        pass


def test_in_a_bucket_the_run_that_began_last_has_it(bucket):
    with Lock(bucket) as first, Lock(bucket) as second:
        second.check()
        with pytest.raises(UsageError, match=r"^Another run has begun in gs://bucket/run and "):
            first.check()


def test_so_it_is_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    said = "cannot be locked .No locks available.; see to it"
    with pytest.warns(UserWarning, match=said), Lock(tmp_path) as first, Lock(tmp_path) as second:
        second.check()
        with pytest.raises(UsageError, match="Another run has begun"):
            first.check()
    monkeypatch.undo()
    with Lock(tmp_path) as third:  # Elsewhere, with what the others have left behind.
        third.check()


def test_the_first_process_of_a_run_has_it_for_all(tmp_path, monkeypatch):
    """The others hear from it what is wrong."""
    monkeypatch.setattr(distributed, "leads", lambda: False)
    with Lock(tmp_path / "run"):
        assert not (tmp_path / "run").exists()
    monkeypatch.setattr(distributed, "said_by_all", lambda _: ["It is in use.", ""])
    with pytest.raises(UsageError, match=r"^It is in use\.$"), Lock(tmp_path / "run"):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    said = r"file/run/\.lock cannot be written: Not a directory\.$"
    with pytest.raises(UsageError, match=said):
        Lock(tmp_path / "file" / "run").__enter__()
