"""Which steps a profile holds, and where it goes."""

import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.checkpoints.state import TrainState
from imagen_jax.cli.train_flags import steps_to_profile
from imagen_jax.errors import UsageError
from imagen_jax.training.profiling import PROFILE_SIGNAL, STEPS_AFTER_SIGNAL, Profiler

STATE = TrainState(step=jnp.zeros(()), params={}, ema={}, opt_state=())


@pytest.fixture
def traced(monkeypatch):
    """In the place of jax.profiler: a list of the windows, each the steps that were in it."""
    windows, on = [], []

    def start(directory, **_):
        on.append(directory)
        windows.append([])

    def annotate(_, step_num):
        if on:
            windows[-1].append(step_num)
        return jax.profiler.TraceAnnotation("step")

    monkeypatch.setattr(jax.profiler, "start_trace", start)
    monkeypatch.setattr(jax.profiler, "stop_trace", on.pop)
    monkeypatch.setattr(jax.profiler, "StepTraceAnnotation", annotate)
    yield windows
    assert not on, "a trace goes on"


def take(profiler, steps):
    for number in steps:
        with profiler.step(number, STATE):
            pass


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (range(0), []),
        (range(3, 5), [[3, 4]]),
        (range(1, 3), [[1, 2]]),
        (range(8, 100), [[8, 9]]),  # The run ends first.
        (range(50, 60), []),
    ],
)
def test_the_steps_of_the_flag_are_traced(tmp_path, traced, window, expected):
    with Profiler(tmp_path, window) as profiler:
        take(profiler, range(1, 10))
    assert traced == expected


def test_a_run_that_goes_on_within_the_window_traces_the_rest(tmp_path, traced):
    with Profiler(tmp_path, range(3, 7)) as profiler:
        take(profiler, range(5, 10))
    assert traced == [[5, 6]]


def test_a_signal_traces_the_next_steps_each_time(tmp_path, traced):
    before = signal.getsignal(PROFILE_SIGNAL)
    with Profiler(tmp_path, range(0)) as profiler:
        take(profiler, range(1, 4))
        os.kill(os.getpid(), PROFILE_SIGNAL)
        take(profiler, range(4, 20))
        os.kill(os.getpid(), PROFILE_SIGNAL)
        take(profiler, range(20, 40))
    assert STEPS_AFTER_SIGNAL == 5
    assert traced == [list(range(4, 9)), list(range(20, 25))]
    assert signal.getsignal(PROFILE_SIGNAL) == before


def test_a_trace_may_go_to_a_bucket(bucket, traced, monkeypatch):
    start = jax.profiler.start_trace

    def write(directory, **options):
        start(directory, **options)
        (Path(directory) / "deep").mkdir()
        (Path(directory) / "deep" / "x.pb").write_bytes(b"steps")

    monkeypatch.setattr(jax.profiler, "start_trace", write)
    with Profiler(bucket, range(1, 2)) as profiler:
        take(profiler, [1, 2])
    assert (bucket / "profile" / "deep" / "x.pb").read_bytes() == b"steps"
    assert traced == [[1]]


def test_a_trace_is_what_jax_wrote_and_ends_with_the_run(tmp_path):
    with pytest.raises(KeyError), Profiler(tmp_path, range(2, 9)) as profiler:
        take(profiler, [1])
        assert not (tmp_path / "profile").exists()
        with profiler.step(2, STATE):
            jnp.ones(3).block_until_ready()
        raise KeyError  # Whatever ends a run.
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"train" in trace.read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("window", [f"1:{'9' * 5000}", "2:1", "1", "0:3", "1:x"])
def test_windows_of_no_steps_are_refused(window):
    with pytest.raises(UsageError, match="it must be START:STOP, two steps with 0 < START < STOP"):
        steps_to_profile(window)
