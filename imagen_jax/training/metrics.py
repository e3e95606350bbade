"""Where a run's numbers go: progress bar, TensorBoard, metrics.jsonl; and a finiteness check."""

import json
import math
import time
from collections.abc import Mapping

import jax
import tensorboardX
from tqdm import tqdm

from imagen_jax.config import TrainingConfig
from imagen_jax.errors import UsageError
from imagen_jax.files import AnyPath, write_text
from imagen_jax.training.step import Metrics

METRICS_FILE = "metrics.jsonl"


class NonFiniteMetric(UsageError):
    """A loss or norm became NaN or infinite; nothing after it is worth keeping."""


def check_finite(step: int, metrics: Metrics) -> dict[str, float]:
    """Metrics as floats; waits for the device.

    Raises:
        NonFiniteMetric: names the step and the metric.
    """
    fetched = jax.device_get(metrics)
    values = {name: float(value) for name, value in fetched.items() if not value.ndim}
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteMetric(
                f"Step {step}: {name} is {value}; the run stops before it is saved. Lower "
                "optimizer.learning_rate or go on from the last checkpoint."
            )
    return values


class Reporter:
    """A progress bar with loss, pictures per second and ETA; scalars for TensorBoard and scripts.

    `metrics.jsonl` gets one object per logged step; a resumed run appends to it.

    Only the process that `writes` reports; all of them check.
    """

    def __init__(
        self, workdir: AnyPath, first_step: int, training: TrainingConfig, *, writes: bool
    ):
        self._training = training
        # Files in buckets cannot be appended to, so that all of it is written each time. Read
        # first, as it may fail: a board that nobody closes complains at the end of the process.
        self._file = workdir / METRICS_FILE
        self._text = self._file.read_text("utf-8") if writes and self._file.exists() else ""
        self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard")) if writes else None
        self._bar = tqdm(
            total=training.num_steps, initial=first_step, unit="step", disable=not writes,
            dynamic_ncols=True,
        )  # fmt: skip
        self._started_at = self._logged_at = time.monotonic()
        self._logged_step, self._logged_wait = first_step, 0.0

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def report(self, step: int, metrics: Metrics, waited: float, broken: Mapping[str, int]) -> None:
        """Takes in a finished step; every `log_every`-th is shown and written.

        Args:
            step: its number.
            metrics: of the step.
            waited: seconds so far that the devices waited for data.
            broken: records so far that could not be used, by reason.

        Raises:
            NonFiniteMetric: as `check_finite`.
        """
        values = check_finite(step, metrics)
        self._bar.update()
        if step % self._training.log_every and step != self._training.num_steps:
            return
        now, batch_size = time.monotonic(), self._training.batch_size
        seconds = max(now - self._logged_at, 1e-9)
        speed = (step - self._logged_step) * batch_size / seconds
        data_wait = (waited - self._logged_wait) / seconds
        self._logged_at, self._logged_step, self._logged_wait = now, step, waited
        shown = {"loss": f"{values['loss']:.4f}", "pictures_per_s": f"{speed:.1f}"}
        self._bar.set_postfix(shown | ({"broken": sum(broken.values())} if broken else {}))
        if self._board is not None:
            speeds = {"pictures_per_second": speed, "pictures_seen": step * batch_size}
            counts = {f"broken/{reason}": count for reason, count in broken.items()}
            scalars = {
                **values,
                **speeds,
                **counts,
                "data_wait": data_wait,
                "seconds": now - self._started_at,
            }
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
            self._text += json.dumps({"step": step, **scalars}) + "\n"
            write_text(self._file, self._text)
