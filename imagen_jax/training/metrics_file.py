"""`metrics.jsonl`: what a run has measured, for scripts. No JAX here."""

import json
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import AnyPath, replacing, write_text
from imagen_jax.storage.json_text import is_number

METRICS_FILE = "metrics.jsonl"
Line = dict[str, Any]
"""`step`, `pictures_seen` and what was measured: numbers, or lists of numbers and None."""
_NO_LINE = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
_NAMED = 5
"""Damaged lines that a warning names, at most."""


class MetricsFile:
    """One JSON object a line, in the order of steps. Several lines may be of one step."""

    def __init__(self, workdir: AnyPath, first_step: int):
        """Drops the lines after `first_step`: a run that goes on from there writes them anew.

        What is no line of metrics is kept in a file of its own, and named in a warning.

        Raises:
            UsageError, OSError: it cannot be read or written.
        """
        self._path = workdir / METRICS_FILE
        data = self._path.read_bytes() if self._path.exists() else b""
        lines, damaged = _parsed(data.split(b"\n"))
        if damaged:
            _keep(self._path.with_name(f"{METRICS_FILE}.damaged"), damaged.values())
            _warn(self._path, damaged, f"kept in {METRICS_FILE}.damaged")
        kept = [text for text, line in lines if line["step"] <= first_step]
        self._text = "".join(f"{text}\n" for text in kept)
        if self._text.encode() != data:
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


def read_metrics(workdir: AnyPath) -> list[Line]:
    """What a run has measured, one entry a step, in their order.

    Of a number that was written twice for one step the later one counts. A last line that is
    being written is left out, and so is, with a warning, what is no line of metrics.

    Raises:
        UsageError: no such file, or no line of metrics in it.
    """
    path = workdir / METRICS_FILE
    if not path.is_file():
        raise UsageError(f"{workdir} has no {METRICS_FILE}; it is no training directory.")
    lines, damaged = _parsed(path.read_bytes().split(b"\n")[:-1])
    if damaged and lines:
        _warn(path, damaged, "left out")
    by_step: dict[int, Line] = {}
    for _, line in lines:
        by_step.setdefault(line["step"], {}).update(line)
    if damaged and not lines:
        raise UsageError(f"{path} holds no line of metrics; its line {min(damaged)} is none.")
    if not by_step:
        raise UsageError(f"{path} is empty; the run has logged nothing yet.")
    return [by_step[step] for step in sorted(by_step)]


def _parsed(lines: Iterable[bytes]) -> tuple[list[tuple[str, Line]], dict[int, bytes]]:
    """Lines of metrics, each as text and as what it says; and by their numbers all others."""
    good, damaged = [], {}
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode()
            if text:
                good.append((text, _parse(text)))
        except _NO_LINE:
            damaged[number] = line
    return good, damaged


def _parse(line: str) -> Line:
    measured = json.loads(line)
    if not isinstance(measured, Mapping):
        raise TypeError(f"{measured!r} is no object")
    for name in ("step", "pictures_seen"):
        if type(measured[name]) is not int or not 0 <= measured[name] < 2**63:
            raise TypeError(f"{name} is {measured[name]!r}")
    for value in measured.values():
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not is_number(number):
                raise TypeError(f"{number!r} is no number")
    return dict(measured)


def _keep(path: AnyPath, lines: Iterable[bytes]) -> None:
    """Adds lines, as they are, to those that were kept before."""
    before = path.read_bytes() if path.exists() else b""
    with replacing(path) as temporary:
        temporary.write_bytes(before + b"".join(line + b"\n" for line in lines))


def _warn(path: AnyPath, damaged: Collection[int], done: str) -> None:
    numbers = ", ".join(map(str, sorted(damaged)[:_NAMED]))
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    what = "1 damaged line" if len(damaged) == 1 else f"{len(damaged)} damaged lines"
    verb = "is" if len(damaged) == 1 else "are"
    warnings.warn(f"{path}: {what} ({numbers}{more}) {verb} {done}.", stacklevel=3)
