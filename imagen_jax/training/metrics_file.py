"""`metrics.jsonl`: what a run has measured, for scripts. No JAX here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagen_jax.errors import UsageError, reason
from imagen_jax.files import AnyPath, write_text

METRICS_FILE = "metrics.jsonl"
Line = dict[str, Any]
"""`step`, `pictures_seen` and what was measured: numbers, or lists of numbers and None."""


class MetricsFile:
    """One JSON object a line, in the order of steps. Several lines may be of one step."""

    def __init__(self, workdir: AnyPath, first_step: int):
        """Drops the lines after `first_step`: a run that goes on from there writes them anew.

        Raises:
            UsageError, OSError: it cannot be read or written.
        """
        self._path = workdir / METRICS_FILE
        text = self._path.read_text("utf-8") if self._path.exists() else ""
        lines = text.splitlines(keepends=True)
        self._text = "".join(line for line in lines if _is_of_step(line, first_step))
        if self._text != text:
            write_text(self._path, self._text)

    def append(self, line: Line) -> None:
        """Adds a line. A file in a bucket cannot be appended to; all of it is written again."""
        added = json.dumps(line, allow_nan=False) + "\n"
        if not isinstance(self._path, Path):
            self._text += added
            write_text(self._path, self._text)
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(added)
        except OSError as error:
            raise UsageError(f"{self._path} cannot be written: {reason(error)}.") from error


def _is_of_step(line: str, last: int) -> bool:
    """Whether a line is whole and of a step up to `last`."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= last
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def read_metrics(workdir: AnyPath) -> list[Line]:
    """What a run has measured, one entry a step, in their order.

    Of a number that was written twice for one step the later one counts. A last line that is
    being written is left out.

    Raises:
        UsageError: no such file, a line that is no line of metrics, or no line at all.
    """
    path = workdir / METRICS_FILE
    if not path.is_file():
        raise UsageError(f"{workdir} has no {METRICS_FILE}; it is no training directory.")
    by_step: dict[int, Line] = {}
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            measured = _parse(line)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise UsageError(f"{path}: line {number} is no line of metrics: {error!r}.") from error
        by_step.setdefault(measured["step"], {}).update(measured)
    if not by_step:
        raise UsageError(f"{path} is empty; the run has logged nothing yet.")
    return [by_step[step] for step in sorted(by_step)]


def _parse(line: bytes) -> Line:
    measured = json.loads(line)
    if not isinstance(measured, Mapping):
        raise TypeError(f"{measured!r} is no object")
    for name in ("step", "pictures_seen"):
        int(measured[name])
    for value in measured.values():
        for number in value if isinstance(value, list) else [value]:
            if number is not None:
                float(number)
    return dict(measured)
