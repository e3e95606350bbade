"""Notices that a run shall end: SIGTERM, some seconds before a machine is taken away, or Ctrl-C."""

import contextlib
import itertools
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

_ENDING = b"\nStopping, after what was trained is saved; Ctrl-C again ends at once.\n"
_STDERR = 2
"""Python's own might be writing when the signal comes."""
_times_asked = itertools.count(1)
"""Of JAX's service, in this process, which counts so too: of a signal that came before all of them
it says to end at the first. A run that goes on from step 5 would never ask for step 1."""


class Preemption:
    """Says after which step a run shall save and end.

    A process that is alone takes the next step after SIGTERM. Of several, one may get the signal
    and all must end after the same step: JAX's preemption service, which catches SIGTERM in each
    of them, spreads it and agrees on a step that none has reached yet. Further signals change
    nothing, also when the run has ended and its last checkpoint is being written.

    Inside of `while_training` Ctrl-C does the same once, and a second one ends the process.

    Attributes:
        interrupted: whether it was Ctrl-C.
    """

    def __init__(self) -> None:
        self.interrupted = self._noticed = False
        self._before = None
        # Python allows handlers nowhere else.
        self._listens = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1 and self._listens:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None and not self._noticed:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, _signal: int, _frame: FrameType | None) -> None:
        self._noticed = True

    @contextlib.contextmanager
    def while_training(self) -> Iterator[None]:
        """A context with something to save. Before it, Ctrl-C ends a run as any program.

        A process that was begun to ignore Ctrl-C, as scripts begin what ends with &, ignores it.
        """
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        listens = self._listens and not ignored
        before = signal.signal(signal.SIGINT, self._interrupt) if listens else None
        try:
            yield
        finally:
            if before is not None and not self.interrupted:
                signal.signal(signal.SIGINT, before)

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        # From here on the system itself ends the process, whatever this one is doing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.interrupted = True
        with contextlib.suppress(OSError):  # Whoever has closed it wants to hear nothing.
            os.write(_STDERR, _ENDING)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._noticed = True

    @property
    def noticed(self) -> bool:
        """Whether this process was asked to end."""
        return self._noticed

    def reached(self) -> bool:
        """Whether to end here; asked once after every step, and once before the first."""
        if jax.process_count() > 1:
            self._noticed = multihost_utils.reached_preemption_sync_point(next(_times_asked))
        return self._noticed

    def say_stopped(self, first: int, last: int) -> None:
        """That a run that began at step `first` has ended early after `last`; what is saved."""
        what = "Ctrl-C" if self.interrupted else "SIGTERM"
        if last > first:
            said = f"after step {last}; it is saved, and the same command goes on"
        elif last:
            said = f"before a step was taken; the same command goes on from step {last}"
        else:
            said = "before the first step; no step is saved, and the same command begins anew"
        print(f"Stopped by {what} {said}.", file=sys.stderr)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started inside hear neither Ctrl-C nor SIGTERM, which reach them too.

    It is for this process to end them, when it has saved.
    """
    signals = {signal.SIGINT, signal.SIGTERM}
    multiprocessing.resource_tracker.ensure_running()  # It would let them hear again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
