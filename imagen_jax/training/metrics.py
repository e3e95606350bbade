"""The metrics of the steps between two logs, from those of single steps; and when to give up."""

import math
from typing import Any

import numpy as np

from imagen_jax.errors import UsageError

Values = dict[str, Any]
"""A step's metrics on the host: numbers, and arrays with one number for each bin of time."""
_LAST = ("parameter_norm", "ema_distance", "learning_rate", "skipped")
"""Of these the last value counts; of others the mean over the updates that were not skipped."""


class TooManySkipped(UsageError):
    """Updates in a row were not finite; the state is that from before them."""


class BrokenParameters(UsageError):
    """Parameters became infinite or NaN; no step will ever be finite again."""


class Interval:
    """The steps since the last log."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._last: Values = {}
        self._taken = self._skipped = 0

    def add(self, values: Values) -> None:
        self._last = {name: values[name] for name in _LAST if name in values}
        if self._last.pop("skipped"):
            self._skipped += 1
            return
        self._taken += 1
        for name in values.keys() - set(_LAST):
            value = np.asarray(values[name], np.float64)
            self._sums[name] = self._sums.get(name, 0.0) + value

    def summary(self) -> Values:
        """Numbers, and where losses are told apart by time `loss_by_time`, a list: None stands for
        a bin without a picture.

        `skipped` is how many updates were. Where all were, there is no loss.
        """
        means = {name: total / self._taken for name, total in self._sums.items()}
        losses, shares = means.pop("bin_losses", ()), means.pop("bin_shares", ())
        summary = {name: float(value) for name, value in {**means, **self._last}.items()}
        if len(losses):
            summary["loss_by_time"] = [
                float(loss / share) if share else None
                for loss, share in zip(losses, shares, strict=True)
            ]
        return {**summary, "skipped": self._skipped}


class SkipCounter:
    """Counts updates that were skipped: in all, and in a row."""

    def __init__(self, most_in_a_row: int):
        self.total = 0
        self._most, self._in_a_row = most_in_a_row, 0

    def add(self, step: int, values: Values) -> UsageError | None:
        """Takes in a step; returns why the run must stop, if it must."""
        if not math.isfinite(values["parameter_norm"]):
            return BrokenParameters(
                f"Step {step}: parameter_norm is {values['parameter_norm']}; the run stops before "
                "it is saved. Start a new run with a lower optimizer.learning_rate, with "
                "--init-from the last checkpoint if there is one."
            )
        if not values["skipped"]:
            self._in_a_row = 0
            return None
        self.total += 1
        self._in_a_row += 1
        if self._in_a_row < self._most:
            return None
        name = "gradient_norm" if math.isfinite(values["loss"]) else "loss"
        return TooManySkipped(
            f"Step {step}: {name} is {values[name]}, and {self._in_a_row} updates in a row were "
            "skipped (training.max_skipped_in_a_row); the state from before them is saved. Look "
            "at the data of these steps, or start a new run with a lower "
            "optimizer.learning_rate, with --init-from this one."
        )
