"""How fast and how large a U-Net of DeepFloyd IF's shape is here and in diffusers, on a CPU.

    python benchmarks/diffusers_speed.py [--repeats 5] [--starts 3] [--dtype bfloat16]

27M parameters, 64x64, batch 8, the same random weights, float32, on both sides, written by
diffusers and read by our importer. Three tasks: the forward pass; a training step (mean squared
error, AdamW); 20 guided steps of DDIM with dynamic thresholding.

Each side of each task is a process of its own. They take turns, on the same inputs, in training of
four steps in a row, and every turn's result is compared before its time counts. PyTorch runs
eagerly, without torch.compile, once with its usual memory layout and once with channels_last; a
ratio is to the better of the two. JAX has the flag for convolutions on CPUs (docs/figures.md).

Printed, as one JSON line a task: medians of the seconds of one run or step, and of the processor's,
all cores together (where other programs run too, only these tell something, and only of one core:
`taskset -c 0`); the most memory that a turn held beside weights, inputs and compiled program; and,
from profiles, what shares of its time each side spends on what.

Linux only, where a process can ask for its peak memory. Both use all cores that the process may.
"""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from race import HERE, Length, Side, make_network, ours, race
from unet_speed import cpu_name, report

from imagen_jax.cli.parsing import parse_flags
from imagen_jax.config.choices import Dtype, Remat
from imagen_jax.config.rules import require_positive
from imagen_jax.errors import UsageError, exit_on_usage_error

CONVOLUTION_FLAG = (
    "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
)
TOLERANCE = {
    "float32": {"forward": 1e-4, "train": 1e-3, "sample": 1e-2},
    "bfloat16": {"forward": 5e-2, "train": 1e-2},
}
"""Of a task's result, the largest difference; training goes on from its own steps."""
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
    """What both sides compute in; weights are float32."""
    tasks: tuple[str, ...] = ("forward", "train", "sample")
    widths: tuple[int, ...] = (64, 128, 192, 256)
    """Channels of each level."""
    text_width: int = 384
    resolution: int = 64
    batch_size: int = 8
    pytorch_python: str = sys.executable
    """An interpreter that has torch and diffusers."""


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
    make_network(flags.pytorch_python, [HERE / "diffusers_side.py", directory, "make", *sizes])


def write_inputs(flags: Flags, directory: Path) -> None:
    """The same for all sides; pictures have their channels last."""
    rng = np.random.default_rng(0)
    side, size = flags.resolution, flags.batch_size
    normal = lambda *shape: rng.normal(size=(size, *shape)).astype(np.float32)  # noqa: E731
    np.savez(
        directory / "inputs.npz", z=normal(side, side, 3), eps=normal(side, side, 3),
        text=normal(TOKENS, flags.text_width), null=normal(TOKENS, flags.text_width),
        step=np.linspace(10, 980, size).round().astype(np.float32),
    )  # fmt: skip


def compare(task: str, flags: Flags, directory: Path) -> dict[str, Any]:
    """Medians of all sides, and our ratios to the faster one of PyTorch's."""
    here = [sys.executable, HERE / "jax_side.py", directory, task, flags.remat, flags.dtype]
    torch = [flags.pytorch_python, HERE / "diffusers_side.py", directory, task, flags.dtype]
    sides = [
        ours(here, XLA_FLAGS=CONVOLUTION_FLAG),
        Side("pytorch", torch),
        Side("pytorch_channels_last", [*torch, "channels_last"]),
    ]
    length = Length(flags.repeats, flags.starts)
    return race(task, sides, length, TOLERANCE[flags.dtype][task], directory)


def main() -> None:
    with exit_on_usage_error():
        measure(parse_flags(lambda: tyro.cli(Flags, description=__doc__)))


if __name__ == "__main__":
    main()
