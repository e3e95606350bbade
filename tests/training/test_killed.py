"""Runs that are killed or told to stop, at any moment, and go on as if they had not been."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
import runs
import tiny

from imagen_jax.config import json_form
from imagen_jax.training import inputs
from imagen_jax.training.loop import run
from imagen_jax.training.preemption import Preemption, deaf_children

SECONDS = 240
"""What anything may take on a machine that is busy with other things."""
GRACE_SECONDS = 60
WRITING = "*.orbax-checkpoint-tmp"
FULL = 75_000
"""Bytes that the largest file of a checkpoint has more of, and everything else less."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def config(directory):
    """Without end; a checkpoint after every step, of which few are kept."""
    training = {"num_steps": 10**6, "checkpoint_every": 1, "keep_checkpoints": 2}
    return tiny.stage(data=tiny.folder(directory / "data"), training=training)


def until(config, step, **training):
    return tiny.replace(config, training={"num_steps": step, **training})


def wait_for(process, happened: Callable[[], bool], workdir: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert process.is_alive(), runs.log(workdir)
        assert time.monotonic() < deadline, runs.log(workdir)
        time.sleep(0.002)


@contextlib.contextmanager
def started(config, workdir: Path, **limits: int) -> Iterator:
    process = runs.start_process(config, workdir, **limits)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def newest(workdir: Path) -> int:
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def assert_goes_on_as_if_nothing_had_happened(config, workdir: Path, straight: Path) -> None:
    """Two steps more, against a run of as many without a break."""
    count = newest(workdir) + 2
    run(until(config, count), workdir)
    run(until(config, count, checkpoint_every=count), straight)
    ours, theirs = runs.saved(config, workdir), runs.saved(config, straight)
    assert ours.step == theirs.step == count
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_loses_nothing(config, directory):
    """Once during the first save of all, and once during a later one."""
    workdir = directory / "saving"
    for _ in range(2):
        with started(config, workdir) as process:
            before = newest(workdir)
            wait_for(process, lambda: newest(workdir) >= before + 2 or before == 0, workdir)  # noqa: B023
            wait_for(process, lambda: any((workdir / "checkpoints").glob(WRITING)), workdir)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert process.exitcode == -signal.SIGKILL
    assert_goes_on_as_if_nothing_had_happened(config, workdir, directory / "straight 1")
    assert not list((workdir / "checkpoints").glob(WRITING))
    assert "damaged" not in runs.log(workdir)


@pytest.mark.slow
def test_a_run_that_is_killed_at_twenty_random_moments_loses_nothing(config, directory):
    """While it starts, restores, compiles, trains, saves (for certain every third time) and
    deletes what is old.
    """
    workdir, moments, while_saving = directory / "random", random.Random(0), 0

    def saves() -> bool:
        return any((workdir / "checkpoints").glob(WRITING))

    for number in range(20):
        before = newest(workdir)
        with started(config, workdir) as process:
            steps = moments.randrange(4)
            if steps:
                wait_for(process, lambda: newest(workdir) >= before + steps, workdir)  # noqa: B023
            if number % 3 == 2:
                wait_for(process, saves, workdir)
            else:
                time.sleep(moments.uniform(0, 0.3 if steps else 5))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert process.exitcode == -signal.SIGKILL, runs.log(workdir)
        assert newest(workdir) >= before
        while_saving += saves()
    assert newest(workdir) > 10 and while_saving > 2
    assert_goes_on_as_if_nothing_had_happened(config, workdir, directory / "straight 2")
    assert "damaged" not in runs.log(workdir)


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_saves_and_ends_well(config, directory):
    """However often it is told."""
    workdir = directory / "told"
    metrics = workdir / "metrics.jsonl"
    with started(until(config, 10**6, checkpoint_every=10**6), workdir) as process:
        wait_for(process, metrics.exists, workdir)
        assert not any((workdir / "checkpoints").iterdir())
        told_at = time.monotonic()
        while process.is_alive() and time.monotonic() < told_at + GRACE_SECONDS:
            process.terminate()
            process.join(0.02)
        assert process.exitcode == 0, runs.log(workdir)
    [step] = runs.steps(workdir)
    assert f"Stopped by SIGTERM after step {step}; it is saved" in runs.log(workdir)
    assert metrics.read_text().count("\n") == step
    assert_goes_on_as_if_nothing_had_happened(config, workdir, directory / "straight 3")


@pytest.mark.slow
def test_a_run_that_cannot_save_says_so_at_once_and_loses_nothing(config, directory):
    """The file that holds most of the arrays does not get written whole."""
    workdir = directory / "full"
    run(until(config, 1), workdir)
    with started(config, workdir, largest_file=FULL) as process:
        process.join(SECONDS)
        assert process.exitcode == 2, runs.log(workdir)
    said = runs.log(workdir)
    error = f"error: A checkpoint in {workdir / 'checkpoints'} cannot be written: File too large.\n"
    assert said.endswith(error) and "Traceback" not in said
    assert newest(workdir) == 1
    assert_goes_on_as_if_nothing_had_happened(config, workdir, directory / "straight 4")


@pytest.mark.slow
def test_ctrl_c_saves_and_ends_with_its_own_exit_code(config, directory):
    workdir = directory / "interrupted"
    with started(until(config, 10**6, checkpoint_every=10**6), workdir) as process:
        wait_for(process, (workdir / "metrics.jsonl").exists, workdir)
        os.kill(process.pid, signal.SIGINT)
        process.join(GRACE_SECONDS)
        assert process.exitcode == 130, runs.log(workdir)
    [step] = runs.steps(workdir)
    said = runs.log(workdir)
    assert (
        f"Stopped by Ctrl-C after step {step}; it is saved, and the same command goes on." in said
    )
    assert said.endswith("stopped\n") and "Traceback" not in said


RUN = """
import sys
from pathlib import Path
import conftest
from imagen_jax.config import json_form
from imagen_jax.errors import exit_on_usage_error
from imagen_jax.training.loop import run

conftest.pytest_configure()
with exit_on_usage_error():
    run(json_form.from_json(sys.argv[1], "config"), Path(sys.argv[2]))
"""
"""As a shell starts it: not sharing what the tests' own processes share."""


@pytest.mark.slow
@pytest.mark.parametrize(("told", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_worker_process_is_left_however_a_run_ends(config, directory, told, code):
    """Ctrl-C goes to all processes of a terminal, and what kills for memory's sake to one."""
    workdir, metrics = directory / f"workers {code}", directory / f"workers {code}/metrics.jsonl"
    config = tiny.replace(config, data={"num_workers": 2}, training={"checkpoint_every": 10**6})
    command = [sys.executable, "-c", RUN, json_form.to_json(config), str(workdir)]
    shared, log = set(Path("/dev/shm").iterdir()), directory / f"{code}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, start_new_session=True)
    deadline = time.monotonic() + SECONDS
    while not metrics.exists():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    (os.killpg if told == signal.SIGINT else os.kill)(process.pid, told)
    assert process.wait(GRACE_SECONDS) == code, log.read_text()
    _, left = psutil.wait_procs(children, GRACE_SECONDS)
    assert not left and set(Path("/dev/shm").iterdir()) <= shared
    assert "Traceback" not in log.read_text()
    assert bool(runs.steps(workdir)) == (told == signal.SIGINT)


@pytest.fixture
def handler():
    """Of SIGTERM, put back after the test, as is that of SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before[signal.SIGTERM]
    for number, function in before.items():
        signal.signal(number, function)


def test_a_run_that_is_told_to_stop_while_it_starts_takes_no_step(
    config, tmp_path, handler, monkeypatch, capsys
):
    open_source = inputs.open_source

    def told(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return open_source(*arguments)

    monkeypatch.setattr(inputs, "open_source", told)
    run(config, tmp_path / "run")
    assert runs.steps(tmp_path / "run") == []
    said = "Stopped by SIGTERM before the first step; no step is saved, and the same command begins"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        (0, 0, "before the first step; no step is saved, and the same command begins anew."),
        (6, 6, "before a step was taken; the same command goes on from step 6."),
        (6, 8, "after step 8; it is saved, and the same command goes on."),
    ],
)
def test_what_is_saved_is_said_as_it_is(first, last, said, capsys):
    Preemption().say_stopped(first, last)
    assert capsys.readouterr().err == f"Stopped by SIGTERM {said}\n"


def test_a_second_ctrl_c_ends_the_process_at_once(handler):
    """The system does it, also where Python has no turn."""
    preemption = Preemption()
    with preemption, preemption.while_training():
        assert not preemption.reached()
        signal.raise_signal(signal.SIGINT)
        assert preemption.reached() and preemption.interrupted
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_ctrl_c_is_python_s_own_before_and_after_the_training(handler):
    before = signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        assert signal.getsignal(signal.SIGINT) == before
        with preemption.while_training():
            assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_run_that_was_begun_to_ignore_ctrl_c_trains_on(handler):
    """As one that a script begins with &: Ctrl-C in the script's terminal is not meant for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Preemption() as preemption, preemption.while_training():
        signal.raise_signal(signal.SIGINT)
        assert not preemption.reached() and not preemption.interrupted
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_of_several_processes_one_that_gets_ctrl_c_tells_the_others(monkeypatch, handler):
    """By SIGTERM to itself, which JAX spreads."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append("SIGTERM"))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with Preemption() as preemption, preemption.while_training():
        signal.raise_signal(signal.SIGINT)
    assert told == ["SIGTERM"] and preemption.interrupted


def test_children_that_are_started_deaf_hear_no_signal_of_the_terminal():
    wait = "import time; print('ready', flush=True); time.sleep(600)"
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with deaf_children():
        child = subprocess.Popen([sys.executable, "-c", wait], stdout=subprocess.PIPE)
    with child:
        child.stdout.readline()
        for number in (signal.SIGINT, signal.SIGTERM):
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        child.kill()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_a_run_that_ends_by_itself_leaves_the_handler_of_signals_as_it_was(handler):
    with Preemption() as preemption:
        assert signal.getsignal(signal.SIGTERM) != handler
        assert not preemption.reached()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_several_processes_end_where_all_have_agreed_to(monkeypatch, handler):
    """JAX catches the signal, in every process, and says when."""
    agreed = iter([False, True])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.reached_preemption_sync_point", lambda _: next(agreed)
    )
    with Preemption() as preemption:
        assert signal.getsignal(signal.SIGTERM) == handler
        assert [preemption.reached() for _ in range(2)] == [False, True]


TOLD = """
import os, signal, socket, sys, time
import jax
from imagen_jax.training.preemption import Preemption

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0, cluster_detection_method="deactivate")
jax.process_count = lambda: 2
with Preemption() as preemption:
    before = [preemption.reached() for _ in range(int(sys.argv[1]))]
with Preemption() as preemption:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)  # Other threads agree meanwhile.
    print(before, preemption.reached(), flush=True)
os._exit(0)
"""
"""One process of several, as far as JAX's own service goes."""


@pytest.mark.slow
@pytest.mark.parametrize("times", [0, 2])
def test_what_several_processes_are_told_before_they_train_is_not_lost(times):
    """Neither where a run is the first one of its process nor where another was before it."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD, str(times)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.stdout == f"{[False] * times} True\n", done.stderr
