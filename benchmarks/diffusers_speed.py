"""How fast and how large a U-Net of DeepFloyd IF's shape is here and in diffusers, on a CPU.

    python benchmarks/diffusers_speed.py [--repeats 5] [--starts 3] [--pytorch-python PATH]

27M parameters, 64x64, batch 8, float32, the same random weights on both sides, written by
diffusers and read by our importer. Three tasks: the forward pass; a training step (mean squared
error, AdamW); 20 guided steps of DDIM with dynamic thresholding.

Each side of each task is a process of its own. They take turns, on the same inputs, in training of
four steps in a row, and every turn's result is compared before its time counts. On some machines a
process is quick or slow as long as it lives, so all are started several times. PyTorch runs
eagerly, without torch.compile, once with its usual memory layout and once with channels_last; a
ratio is to the better of the two. JAX has the flag for convolutions on CPUs (docs/figures.md).

Printed, as one JSON line a task: medians of the seconds of one run or step, and of the processor's,
all cores together (where other programs run too, only these tell something, and only of one core:
`taskset -c 0`); the most memory that a turn held beside weights, inputs and compiled program; and,
from profiles, what shares of its time each side spends on what.

Linux only, where a process can ask for its peak memory. Both use all cores that the process may.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import tyro
from unet_speed import cpu_name, report

from imagen_jax.cli.parsing import parse_flags
from imagen_jax.config.choices import Dtype, Remat
from imagen_jax.config.rules import require_positive
from imagen_jax.errors import UsageError, exit_on_usage_error

HERE = Path(__file__).parent
CONVOLUTION_FLAG = (
    "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
)
TOLERANCE = {
    "float32": {"forward": 1e-4, "train": 1e-3, "sample": 1e-2},
    "bfloat16": {"forward": 5e-2, "train": 1e-2},
}
"""Of a task's result, the largest difference; training goes on from its own steps."""
MEASURED = ("seconds", "cpu_seconds", "megabytes")
TOKENS = 77


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    repeats: int = 5
    """Timed turns of each side from one start to the next; the median of all counts."""
    starts: int = 3
    """How often each side is started; ours compiles each time."""
    remat: Remat = "none"
    """What our training step computes again (see models/blocks.py)."""
    dtype: Dtype = "float32"
    """What our side computes in; PyTorch's stays in float32."""
    tasks: tuple[str, ...] = ("forward", "train", "sample")
    widths: tuple[int, ...] = (64, 128, 192, 256)
    """Channels of each level."""
    text_width: int = 384
    resolution: int = 64
    batch_size: int = 8
    pytorch_python: str = sys.executable
    """An interpreter that has torch and diffusers."""


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
        """What shares of its time it spends on what, which it says at last."""
        said = self.process.communicate()[0]
        if self.process.returncode:
            self.fail()
        return json.loads(said)

    def fail(self) -> NoReturn:
        raise UsageError(f"The side {self.name!r} ended with code {self.process.wait()}.")


def measure(flags: Flags) -> None:
    require_positive(flags, "repeats", "starts", "text_width", "resolution", "batch_size")
    compared = TOLERANCE[flags.dtype]
    if unknown := sorted(set(flags.tasks) - set(compared)):
        raise UsageError(
            f"tasks has {unknown[0]!r}; with {flags.dtype} it must be of {', '.join(compared)}."
        )
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        write_network(flags, directory)
        write_inputs(flags, directory)
        report("machine", cpu=cpu_name(), cores=len(os.sched_getaffinity(0)), jax=jax.__version__)
        for task in flags.tasks:
            report(task, **compare(task, flags, directory))


def write_network(flags: Flags, directory: Path) -> None:
    sizes = [flags.text_width, flags.resolution, *flags.widths]
    command = [flags.pytorch_python, HERE / "diffusers_side.py", directory, "make"]
    try:
        subprocess.run([*command, *map(str, sizes)], capture_output=True, text=True, check=True)
    except OSError as error:
        raise UsageError(f"pytorch_python is {flags.pytorch_python!r}: {error.strerror}.") from None
    except subprocess.CalledProcessError as error:
        last = "".join(error.stderr.strip().splitlines()[-1:])
        raise UsageError(
            f"pytorch_python {flags.pytorch_python!r} made no network by diffusers: {last}"
        ) from None


def write_inputs(flags: Flags, directory: Path) -> None:
    """The same for all sides; pictures have their channels last."""
    rng = np.random.default_rng(0)
    side, size = flags.resolution, flags.batch_size
    normal = lambda *shape: rng.normal(size=(size, *shape)).astype(np.float32)  # noqa: E731
    np.savez(
        directory / "inputs.npz", z=normal(side, side, 3), eps=normal(side, side, 3),
        text=normal(TOKENS, flags.text_width), null=normal(TOKENS, flags.text_width),
        step=np.linspace(10, 980, size, dtype=np.float32),
    )  # fmt: skip


def compare(task: str, flags: Flags, directory: Path) -> dict[str, Any]:
    """Medians of all sides, and our ratios to the faster one of PyTorch's."""
    ours = Side(
        "jax", [sys.executable, HERE / "jax_side.py", directory, task, flags.remat, flags.dtype],
        JAX_PLATFORMS="cpu", XLA_FLAGS=CONVOLUTION_FLAG,
        PYTHONPATH=str(HERE.parent),
    )  # fmt: skip
    torch = [flags.pytorch_python, HERE / "diffusers_side.py", directory, task]
    theirs = [Side("pytorch", torch), Side("pytorch_channels_last", [*torch, "channels_last"])]
    sides = [ours, *theirs]
    difference = 0.0
    for _ in range(flags.starts):
        for side in sides:
            side.start()
        for turn in range(flags.repeats + 1):
            # The first turn compiles and warms up.
            results = [side.turn(directory, counts=turn > 0) for side in sides]
            difference = max(difference, *(np.abs(results[0] - x).max() for x in results[1:]))
            if not difference <= TOLERANCE[flags.dtype][task]:
                raise UsageError(f"{task}: the sides differ by {difference:.2g}; that is no race.")
        shares = {side.name: side.stop() for side in sides}
    found = {f"{side.name}_{what}": side.median(what) for what in MEASURED for side in sides}
    for what in MEASURED:
        found[f"ratio_of_{what}"] = ours.median(what) / min(side.median(what) for side in theirs)
    return {**found, "largest_difference": float(difference), "shares": shares}


def main() -> None:
    with exit_on_usage_error():
        measure(parse_flags(lambda: tyro.cli(Flags, description=__doc__)))


if __name__ == "__main__":
    main()
