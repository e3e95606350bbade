"""Where a run's numbers and pictures go: progress bar, TensorBoard, metrics.jsonl, PNG files."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from PIL import Image

from imagen_jax.config import TrainingConfig
from imagen_jax.config.data import Size
from imagen_jax.data.broken import BrokenRecords
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.sheets import save_png
from imagen_jax.progress import StepBar
from imagen_jax.storage.files import AnyPath, absolute
from imagen_jax.training.board import Board
from imagen_jax.training.metrics import Interval, SkipCounter, Values
from imagen_jax.training.metrics_file import MetricsFile
from imagen_jax.training.speed import Stopwatch, Work, memory_use
from imagen_jax.training.step import Metrics

_LARGEST_SHOWN = 4096
"""Pixels along the longer side of a picture in TensorBoard, which holds all of them."""
Measured = float | int | list
"""A number, or numbers and None for equal parts of [0, 1]."""


class Reporter:
    """Reads the metrics of steps, each when the next step has been started, and logs them.

    So the device never waits for the host. Only the process that `writes` has a bar and
    files; all of them read, so that all stop at the same step.
    """

    def __init__(
        self,
        workdir: AnyPath,
        first_step: int,
        pictures: int,
        training: TrainingConfig,
        work: Work,
        broken: BrokenRecords,
        *,
        writes: bool,
    ):
        """`pictures`: seen in `first_step` steps. `broken`: counts on while the run reads."""
        self._broken = broken
        self._first_step, self._pictures = first_step, pictures
        self._training, self._work, self._workdir = training, work, workdir
        self._file = MetricsFile(workdir, first_step) if writes else None
        self._board = Board(absolute(workdir / "tensorboard"), first_step + 1) if writes else None
        self._bar = StepBar(training.num_steps, initial=first_step, disable=not writes)
        self._pending: tuple[int, Metrics, Size] | None = None
        self._interval = Interval()
        self._skips = SkipCounter(training.max_skipped_in_a_row)
        self._stopwatch = Stopwatch()
        self._began = time.monotonic()

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._bar.close()
        # On a full disk it fails again, and what failed first is what to hear of.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(UsageError):
            if self._board is not None:
                self._board.close()

    def waiting(self, running: jax.Array) -> contextlib.AbstractContextManager[None]:
        """Round what reads the next batch while a step computes `running`.

        The share of the time that the devices wait for it is `data_wait`.
        """
        return self._stopwatch.waiting(running)

    def step_started(self, step: int, metrics: Metrics, size: Size) -> None:
        """Reads the metrics of the step before, and keeps these, of pictures of this size.

        Raises:
            TooManySkipped, BrokenParameters: the run must stop.
        """
        self._stopwatch.step_started(size)
        self._read_pending()
        self._pending = step, metrics, size

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Waits for the step that was started; what is then done counts as no step's time.

        Raises:
            TooManySkipped, BrokenParameters: the run must stop.
        """
        self._read_pending()
        with self._stopwatch.paused():
            yield

    def _read_pending(self) -> None:
        if self._pending is None:
            return
        (step, metrics, size), self._pending = self._pending, None
        values: Values = jax.device_get(metrics)  # Waits for the device.
        self._stopwatch.step_ended(size)
        self._bar.step()
        self._interval.add(values)
        problem = self._skips.add(step, values)
        if problem or step % self._training.log_every == 0 or step == self._training.num_steps:
            self._log(step)
        if problem:
            raise problem

    def _log(self, step: int) -> None:
        summary = {**self._interval.summary(), **self._stopwatch.lap(self._work), **memory_use()}
        self._interval = Interval()
        shown = {"loss": "loss", "pictures_per_second": "pictures_per_s"}
        postfix = {shown[name]: f"{summary[name]:.4g}" for name in shown if name in summary}
        if self._skips.total:
            postfix["skipped"] = self._skips.total
        broken = self._broken.counts()
        if broken:
            postfix["broken"] = sum(broken.values())
        self._bar.set_postfix(postfix)
        counts = {f"broken/{reason}": count for reason, count in broken.items()}
        self.write(step, {**summary, **counts, "seconds": time.monotonic() - self._began})

    def write(self, step: int, measured: Mapping[str, Measured]) -> None:
        """Writes what was measured after `step`; numbers that are not finite are left out."""
        if self._file is None:
            return
        pictures = self._pictures + (step - self._first_step) * self._training.batch_size
        line = {"step": step, "pictures_seen": pictures}
        line |= {name: value for name, value in measured.items() if _is_finite(value)}
        self._file.append(line)
        for tag, value in _scalars(line):
            self._board.add_scalar(tag, value, step)

    def show(self, step: int, name: str, sheet: Image.Image, measured: Mapping[str, float]) -> None:
        """Writes a picture made after `step`, and what was measured of it.

        The picture becomes WORKDIR/NAME/STEP.png and, reduced if it is very large,
        TensorBoard's NAME.
        """
        if self._board is None:
            return
        save_png(sheet, self._workdir / name / f"{step:08d}.png")
        shown = sheet.convert("RGB")
        shown.thumbnail((_LARGEST_SHOWN, _LARGEST_SHOWN))
        self._board.add_image(name, np.asarray(shown), step)
        if measured:
            self.write(step, measured)


def _is_finite(value: Measured) -> bool:
    return isinstance(value, list) or math.isfinite(value)


def _scalars(line: Mapping[str, Measured]) -> Iterator[tuple[str, float | int]]:
    """Tag -> number: of a list over equal parts of [0, 1], one tag for each part."""
    for name, value in line.items():
        if not isinstance(value, list):
            if name != "step":
                yield name, value
            continue
        for index, part in enumerate(value):
            if part is not None:
                low, high = index / len(value), (index + 1) / len(value)
                yield f"{name}/{low:.1f}-{high:.1f}", part
