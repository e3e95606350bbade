"""Processes that take turns at the same work, of which all results are compared.

Each side is a process of its own, which `turns.serve` makes work when it is told to. On some
machines a process is quick or slow as long as it lives, so all are started several times.
"""

import dataclasses
import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from imagen_jax.errors import UsageError

HERE = Path(__file__).parent
MEASURED = ("seconds", "cpu_seconds", "megabytes")


class Side:
    """A process that works when it is told to."""

    def __init__(self, name: str, command: list[str], **variables: str):
        self.name, self.command, self.variables = name, command, variables
        self.took = []

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | self.variables,
        )  # fmt: skip

    def turn(self, directory: Path, *, counts: bool) -> np.ndarray:
        """One run's result."""
        path = directory / "result.npy"
        try:
            self.process.stdin.write(f"{path}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.fail()
        if not (line := self.process.stdout.readline()):
            self.fail()
        if counts:
            self.took.append(json.loads(line))
        return np.load(path)

    def median(self, what: str) -> float:
        return statistics.median(took[what] for took in self.took)

    def stop(self) -> dict[str, float]:
        """What it says at last: what shares of its time it spends on what, or nothing."""
        said = self.process.communicate()[0]
        if self.process.returncode:
            self.fail()
        return json.loads(said or "{}")

    def fail(self) -> NoReturn:
        raise UsageError(f"The side {self.name!r} ended with code {self.process.wait()}.")


def ours(command: list[str | Path], **variables: str) -> Side:
    """A side that runs this package on the CPU."""
    return Side("jax", command, JAX_PLATFORMS="cpu", PYTHONPATH=str(HERE.parent), **variables)


def make_network(python: str, command: Sequence[str | Path | int]) -> None:
    """Runs what writes a network by PyTorch.

    Raises:
        UsageError: the interpreter is missing, or it made none.
    """
    try:
        subprocess.run([python, *map(str, command)], capture_output=True, text=True, check=True)
    except OSError as error:
        raise UsageError(f"pytorch_python is {python!r}: {error.strerror}.") from None
    except subprocess.CalledProcessError as error:
        last = "".join(error.stderr.strip().splitlines()[-1:])
        raise UsageError(f"pytorch_python {python!r} made no network: {last}") from None


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a race is.

    Attributes:
        repeats: timed turns of each side from one start to the next.
        starts: how often each side is started.
    """

    repeats: int
    starts: int


def race(
    what: str, sides: Sequence[Side], length: Length, tolerance: float, directory: Path
) -> dict[str, Any]:
    """Medians of all sides, and the ratios of the first one to the best of the others.

    Raises:
        UsageError: a side ended, or the first one's results are not those of the others.
    """
    first, *others = sides
    difference = 0.0
    for _ in range(length.starts):
        for side in sides:
            side.start()
        for turn in range(length.repeats + 1):
            # The first turn compiles and warms up.
            results = [side.turn(directory, counts=turn > 0) for side in sides]
            difference = max(difference, *(np.abs(results[0] - x).max() for x in results[1:]))
            if not difference <= tolerance:
                raise UsageError(f"{what}: the sides differ by {difference:.2g}; that is no race.")
        shares = {side.name: side.stop() for side in sides}
    found = {f"{side.name}_{what}": side.median(what) for what in MEASURED for side in sides}
    for what in MEASURED:
        best = min(side.median(what) for side in others)
        found[f"ratio_of_{what}"] = first.median(what) / best
    return {**found, "largest_difference": float(difference), "shares": shares}
