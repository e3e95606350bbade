"""Two processes of four devices train as one device does: together, killed, resumed, and alone."""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
import tiny
from scripts import ROOT, largest

from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.config import json_form
from imagen_jax.parallel import mesh as meshes
from imagen_jax.training.loop import run
from imagen_jax.weights.stage_file import save_stage_file

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("worker.py")
ENDLESS = {"num_steps": 10**6, "checkpoint_every": 2, "keep_checkpoints": 100}
TIMEOUT = 600


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def config(directory):
    """With crops and drawn captions, and a frozen encoder that is copied from another stage."""
    encoder = directory / "encoder.safetensors"
    save_stage_file(encoder, tiny.stage(), tiny.random_params(tiny.stage()), "float32")
    return tiny.stage(
        data=tiny.replace(
            tiny.folder(directory / "data"),
            crop=8, eval_source=tiny.folder(directory / "held_out").source,
        ),
        text_encoder={"train": False, "source": str(encoder)},
        optimizer={"learning_rate": 1e-4, "power_ema": (0.1,)},  # Saved beside the checkpoint.
        training={
            "sample_every": 10**6, "sample_prompts": ("a red apple",),
            "eval_every": 10**6, "eval_batches": 2,
        },
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def by_flags(number: int, port: int):
    flags = ["--distributed.coordinator", f"127.0.0.1:{port}", "--distributed.num-processes", "2"]
    return [*flags, "--distributed.process-id", str(number)], {}


def by_slurm(number: int, port: int):
    """What srun sets in each of two tasks, and the port that JAX would derive from the job."""
    return [], {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number),
        "JAX_COORDINATOR_PORT": str(port),
    }  # fmt: skip


@contextlib.contextmanager
def pair(config, workdir: Path, start) -> Iterator[list[subprocess.Popen]]:
    """train.py in two processes that `start` brings together; none outlives the context."""
    origin, port = workdir.with_suffix(".json"), free_port()
    origin.write_text(json_form.to_json(config))
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    processes = []
    for number in range(2):
        flags, environ = start(number, port)
        command = [sys.executable, WORKER, origin, "--workdir", workdir, *flags]
        with workdir.with_name(f"{workdir.name}-{number}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    command, env=os.environ | environ | {"PYTHONPATH": path}, stderr=log, stdout=log
                )
            )
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def log(workdir: Path, number: int) -> str:
    return workdir.with_name(f"{workdir.name}-{number}.log").read_text()


def changed_training(config, **changes):
    return tiny.replace(config, training=changes)


def train_and_kill(config, workdir: Path) -> int:
    """Both processes get SIGKILL after the first checkpoint; returns the newest one's step."""
    with pair(changed_training(config, **ENDLESS), workdir, by_flags) as processes:
        deadline = time.monotonic() + TIMEOUT
        while not (workdir / "checkpoints" / "2").is_dir():
            assert all(process.poll() is None for process in processes), log(workdir, 0)
            assert time.monotonic() < deadline, log(workdir, 0)
            time.sleep(0.01)
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    return newest(workdir)


def newest(workdir: Path) -> int:
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return max(checkpoints.steps(), default=0)


def logged(workdir: Path, name: str) -> list[tuple[int, float]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line[name]) for line in map(json.loads, lines) if name in line]


@pytest.fixture(scope="module")
def resumed(config, directory):
    """A run of two processes, killed, resumed on two, and gone on with by one of eight devices.

    Two steps each time. Returns the training directory and the last checkpoint's step when the
    run was killed.
    """
    workdir = directory / "pair"
    killed = train_and_kill(config, workdir)
    until = functools.partial(changed_training, config)
    with pair(until(num_steps=killed + 2), workdir, by_slurm) as processes:
        codes = [process.wait(TIMEOUT) for process in processes]
    assert codes == [0, 0], log(workdir, 0) + log(workdir, 1)
    assert newest(workdir) == killed + 2
    run(until(num_steps=killed + 4, sample_every=0), workdir)
    return workdir, killed


def test_losses_are_those_of_a_single_device(config, directory, resumed):
    """To 1e-3: sums over devices have another order, and Adam makes much of small gradients."""
    workdir, killed = resumed
    alone = directory / "alone"
    with pytest.MonkeyPatch.context() as patch:
        mesh = meshes.make_mesh(config.mesh, jax.devices()[:1])
        patch.setattr(meshes, "make_mesh", lambda *_: mesh)
        run(changed_training(config, num_steps=killed + 4, sample_every=0, eval_every=1), alone)
    for name in ("loss", "eval_loss_ema", "eval_loss_raw"):
        expected, got = dict(logged(alone, name)), logged(workdir, name)
        np.testing.assert_allclose(
            [loss for _, loss in got], [expected[step] for step, _ in got], rtol=1e-3
        )
        # At the end of a run it is evaluated.
        steps = range(1, killed + 5) if name == "loss" else (killed + 2, killed + 4)
        assert [step for step, _ in got] == list(steps)
    assert np.ptp([loss for _, loss in logged(alone, "loss")]) > 1e-2


def test_one_process_writes_what_there_is_one_of(resumed):
    workdir, killed = resumed
    assert len(list((workdir / "tensorboard").iterdir())) == 3  # One for each start.
    assert [path.name for path in (workdir / "samples").iterdir()] == [f"{killed + 2:08d}.png"]
    assert (workdir / "text_encoder.safetensors").is_file()
    assert [path.name for path in workdir.glob(".*")] == [".lock"]
    assert "step/s" not in log(workdir, 1)


def test_too_many_steps_that_are_not_finite_stop_all_and_are_saved_by_all(config, directory):
    """A rate of 1e16 blows up after the first step."""
    workdir = directory / "wild"
    wild = tiny.replace(
        config,
        optimizer={"learning_rate": 1e16, "clip_global_norm": None},
        training={**ENDLESS, "checkpoint_every": 10**6, "max_skipped_in_a_row": 3},
    )
    with pair(wild, workdir, by_flags) as processes:
        codes = [process.wait(TIMEOUT) for process in processes]
    assert codes == [2, 2], log(workdir, 0) + log(workdir, 1)
    for number in range(2):
        assert "3 updates in a row were skipped" in log(workdir, number)
        assert "Traceback" not in log(workdir, number)
    stopped = dict(logged(workdir, "skipped"))
    assert sum(stopped.values()) >= 3
    assert newest(workdir) == max(stopped) + 1


def test_a_mistake_ends_all_processes_with_its_sentence(config, directory):
    workdir = directory / "mistaken"
    with pair(tiny.replace(config, mesh={"fsdp": 3}), workdir, by_flags) as processes:
        assert [process.wait(TIMEOUT) for process in processes] == [2, 2]
    for number in range(2):
        assert "error: mesh.fsdp is 3" in log(workdir, number)
        assert "Traceback" not in log(workdir, number)
    assert not workdir.exists()


def wait_for(happened: Callable[[], bool], processes, workdir: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        assert all(process.poll() is None for process in processes), log(workdir, 0)
        assert time.monotonic() < deadline, log(workdir, 0)
        time.sleep(0.002)


def finish(config, workdir: Path) -> None:
    with pair(config, workdir, by_flags) as processes:
        codes = [process.wait(TIMEOUT) for process in processes]
    assert codes == [0, 0], log(workdir, 0) + log(workdir, 1)


@pytest.fixture(scope="module")
def learning(config):
    """A stage that trains its encoder: its embeddings are sharded over both processes."""
    encoder = {"train": True, "source": ""}
    return tiny.replace(config, text_encoder=encoder, training={"sample_every": 0})


def kill_while_saving(config, workdir: Path) -> int:
    """Returns the step of the newest checkpoint."""
    endless = changed_training(config, **ENDLESS | {"checkpoint_every": 1})
    with pair(endless, workdir, by_flags) as processes:
        checkpoints = workdir / "checkpoints"
        wait_for((checkpoints / "2").is_dir, processes, workdir)
        wait_for(lambda: any(checkpoints.glob("*-tmp")), processes, workdir)
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
    return newest(workdir)


def last_logged(workdir: Path) -> int:
    return max((step for step, _ in logged(workdir, "loss")), default=0)


def tell_one_to_stop(config, workdir: Path) -> int:
    """SIGTERM, more than once, to the second process alone; returns the last step of both."""
    endless = changed_training(config, **ENDLESS | {"checkpoint_every": 10**6})
    before = last_logged(workdir)  # Also of steps that were lost, until the run goes on.
    with pair(endless, workdir, by_flags) as processes:
        wait_for(lambda: last_logged(workdir) > before, processes, workdir)
        for _ in range(3):
            processes[1].send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert [process.wait(60) for process in processes] == [0, 0], log(workdir, 0)
    stopped = newest(workdir)
    assert f"Stopped by SIGTERM after step {stopped}; it is saved" in log(workdir, 0)
    assert "Stopped" not in log(workdir, 1)
    return stopped


def test_two_processes_survive_what_may_happen_and_lose_nothing(learning, directory):
    """Killed while they save, told to stop, and with a file damaged that only one of them reads.

    The end is that of two processes to which nothing happened, bit for bit.
    """
    workdir, straight = directory / "survivors", directory / "straight"
    killed = kill_while_saving(learning, workdir)
    stopped = tell_one_to_stop(learning, workdir)
    assert killed >= 2 and stopped > killed + 1
    damaged = workdir / "checkpoints" / str(stopped) / "params"
    file = largest(damaged / "ocdbt.process_1")
    file.write_bytes(bytes(file.stat().st_size))
    finish(changed_training(learning, num_steps=stopped + 2), workdir)
    assert f"checkpoints/{stopped} is damaged or incomplete" in log(workdir, 0)
    assert f"that of step {killed} is used" in log(workdir, 0)
    assert "is damaged" not in log(workdir, 1)
    assert (workdir / "damaged" / str(stopped)).is_dir()
    finish(changed_training(learning, num_steps=stopped + 2), straight)
    ours, theirs = (runs.saved(learning, path) for path in (workdir, straight))
    assert ours.step == theirs.step == stopped + 2
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
