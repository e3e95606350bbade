"""TensorBoard's file of events."""

import time

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import directory_check

from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import AnyPath

_FLUSH_SECONDS = 120


class Board:
    """Writes events where they are made: an error comes out here, and not in another thread."""

    def __init__(self, directory: AnyPath, first_step: int) -> None:
        """What other files in the directory hold of `first_step` and later is not shown."""
        self._directory, self._flushed = directory, 0.0
        try:
            directory_check(str(directory))
            self._events = EventsWriter(str(directory / "events"))
        except OSError as error:
            raise self._cannot(error) from error
        self._write(Event(step=first_step, file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalar(self, tag: str, value: float | int, step: int) -> None:
        self._write(Event(step=step, summary=summary.scalar(tag, value)))

    def add_image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """`pixels`: uint8 [height, width, 3]."""
        self._write(Event(step=step, summary=summary.image(tag, pixels, dataformats="HWC")))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            self._events.write_event(event)
            if time.monotonic() > self._flushed + _FLUSH_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        try:
            self._events.close()
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> UsageError:
        return UsageError(f"{self._directory} cannot be written: {reason(error)}.")
