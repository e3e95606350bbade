"""Worker processes end when their parent is gone, and leave nothing behind."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

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

READER = """
import sys
import tiny
from pathlib import Path
from imagen_jax.data.pipeline import make_dataset
from imagen_jax.data.sources import open_source

if __name__ == "__main__":
    data = tiny.folder(Path(sys.argv[1]))
    config = tiny.stage(data=data, text_encoder={"train": False}, conditions={"text": False})
    config = tiny.replace(config, data={"num_workers": 1})
    batches = iter(make_dataset(open_source(config.data), config, None, batch_size=8, seed=0))
    kept = next(batches)
    batches.close()
    print(kept["image"].shape, flush=True)
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


@pytest.mark.slow
def test_a_batch_that_is_held_at_the_end_leaves_no_shared_memory(tmp_path):
    """Python's resource tracker says on stderr what it has to clean up."""
    (tmp_path / "reader.py").write_text(READER)
    command = [sys.executable, str(tmp_path / "reader.py"), str(tmp_path / "data")]
    places = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": places, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "(8, 16, 16, 3)\n", done.stderr
    assert "shared_memory" not in done.stderr
