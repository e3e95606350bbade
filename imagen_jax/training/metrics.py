"""Where a run's numbers go: TensorBoard, a progress bar, and a check that they are finite."""

import math
import time
from pathlib import Path
from typing import Self

import jax
import tensorboardX
from tqdm import tqdm

from imagen_jax.config import TrainingConfig
from imagen_jax.errors import UsageError
from imagen_jax.training.step import Metrics


class NonFiniteMetric(UsageError):
    """A loss or norm became NaN or infinite; nothing after it is worth keeping."""


def check_finite(step: int, metrics: Metrics) -> dict[str, float]:
    """Metrics as floats; waits for the device.

    Raises:
        NonFiniteMetric: names the step and the metric.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteMetric(
                f"Step {step}: {name} is {value}; the run stops before it is saved. Lower "
                "optimizer.learning_rate or go on from the last checkpoint."
            )
    return values


class Reporter:
    """A progress bar with loss, pictures per second and ETA; TensorBoard scalars.

    Only the process that `writes` reports; all of them check.
    """

    def __init__(self, workdir: Path, first_step: int, training: TrainingConfig, *, writes: bool):
        self._training = training
        self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard")) if writes else None
        self._bar = tqdm(
            total=training.num_steps, initial=first_step, unit="step", disable=not writes,
            dynamic_ncols=True,
        )  # fmt: skip
        self._logged_at, self._logged_step = time.monotonic(), first_step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def report(self, step: int, metrics: Metrics) -> None:
        """Takes in a finished step; every `log_every`-th is shown and written.

        Raises:
            NonFiniteMetric: as `check_finite`.
        """
        values = check_finite(step, metrics)
        self._bar.update()
        if step % self._training.log_every and step != self._training.num_steps:
            return
        now, batch_size = time.monotonic(), self._training.batch_size
        speed = (step - self._logged_step) * batch_size / max(now - self._logged_at, 1e-9)
        self._logged_at, self._logged_step = now, step
        self._bar.set_postfix(loss=f"{values['loss']:.4f}", pictures_per_s=f"{speed:.1f}")
        if self._board is not None:
            scalars = {"pictures_per_second": speed, "pictures_seen": step * batch_size}
            for name, value in {**values, **scalars}.items():
                self._board.add_scalar(name, value, step)
