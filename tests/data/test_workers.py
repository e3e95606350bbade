"""Worker processes end when their parent is gone."""

import contextlib
import os
import subprocess
import sys
import time

PARENT = """
import multiprocessing, time
from imagen_jax.data.workers import end_with_parent

def work(pipe):
    end_with_parent(0, 1)
    pipe.send("at work")
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,), daemon=True)
    process.start()
    ours.recv()
    print(process.pid, flush=True)
    time.sleep(600)
"""


def is_there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:  # Nobody may have asked how it ended.
            return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_worker_ends_with_a_parent_that_was_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        worker = int(process.stdout.readline())
        assert is_there(worker)
        process.kill()
    deadline = time.monotonic() + 60
    while is_there(worker):
        assert time.monotonic() < deadline
        time.sleep(0.01)
