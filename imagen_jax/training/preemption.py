"""Notices that the machine will be taken away: SIGTERM, some seconds before it."""

import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Says after which step a run shall save and end.

    A process that is alone takes the next step after SIGTERM. Of several, one may get the signal
    and all must end after the same step: JAX's preemption service, which catches SIGTERM in each
    of them, spreads it and agrees on a step that none has reached yet. Further signals change
    nothing, also when the run has ended and its last checkpoint is being written.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._before = None

    def __enter__(self) -> "Preemption":
        in_main = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and in_main:  # Python allows handlers nowhere else.
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None and not self._noticed:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, _signal: int, _frame: FrameType | None) -> None:
        self._noticed = True

    def reached(self, step: int) -> bool:
        """Whether to end here; asked once after every step, and once before the first."""
        if jax.process_count() > 1:
            self._noticed = multihost_utils.reached_preemption_sync_point(step)
        return self._noticed


def say_stopped(step: int) -> None:
    """That a run has ended early, and goes on when it is started again."""
    print(
        f"Stopped by SIGTERM after step {step}; it is saved, and the same command goes on.",
        file=sys.stderr,
    )
