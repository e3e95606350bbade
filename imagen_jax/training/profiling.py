"""A profile of a few steps: those that a flag names, or the next ones after a signal."""

import contextlib
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from imagen_jax.checkpoints.state import TrainState
from imagen_jax.storage.files import AnyPath, replacing

PROFILE_SIGNAL = signal.SIGUSR1
STEPS_AFTER_SIGNAL = 5


class Profiler:
    """Traces steps with jax.profiler; what is traced lies in WORKDIR/profile when it is over.

    A signal reaches one process, which traces its own devices.
    """

    def __init__(self, workdir: AnyPath, steps: range):
        """`steps`: to trace, the first step of a run being 1; empty for none."""
        self._directory, self._steps = workdir / "profile", set(steps)
        self._asked = False
        self._traced: tempfile.TemporaryDirectory | None = None
        # Python lets only the main thread listen.
        self._listens = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Profiler":
        if self._listens:
            self._previous = signal.signal(PROFILE_SIGNAL, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._listens:
            signal.signal(PROFILE_SIGNAL, self._previous or signal.SIG_DFL)
        if self._traced is not None:
            self._stop()

    def _ask(self, *_: Any) -> None:
        self._asked = True

    @contextlib.contextmanager
    def step(self, number: int, state: TrainState) -> Iterator[None]:
        """Round the start of step `number` from `state`.

        Where a window begins or ends, it waits for the steps before.
        """
        if self._asked:
            self._asked = False
            self._steps.update(range(number, number + STEPS_AFTER_SIGNAL))
        if (number in self._steps) != (self._traced is not None):
            jax.block_until_ready(state)
            if self._traced is None:
                self._start()
            else:
                self._stop()
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def _start(self) -> None:
        self._traced = tempfile.TemporaryDirectory()
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Every call of Python would slow down what is measured.
        jax.profiler.start_trace(self._traced.name, profiler_options=options)

    def _stop(self) -> None:
        """Ends the trace, and moves it to where it belongs, which may be a bucket."""
        jax.profiler.stop_trace()
        with self._traced as directory:
            self._traced = None
            for file in Path(directory).rglob("*"):
                if file.is_file():
                    target = self._directory / file.relative_to(directory).as_posix()
                    with replacing(target) as temporary:
                        temporary.write_bytes(file.read_bytes())
