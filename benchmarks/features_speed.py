"""How fast the networks that pictures are measured by are here and in PyTorch, on a CPU.

    python benchmarks/features_speed.py [--repeats 5] [--starts 2] [--pytorch-python PATH]

CLIP's vision towers of ViT-B/32 and ViT-L/14, DINOv2's ViT-L/14 at 224 pixels and FID's
Inception-v3, in float32 as `stats` and `evaluate` run them, with the same random weights on both
sides: transformers and pytorch-fid write them, and our importers read them. Each side is a process
of its own, and they take turns on the same pictures (race.py); every turn's features are compared
before its time counts. PyTorch runs eagerly, Inception once with its usual memory layout and once
with channels_last; a ratio is to the better of the two.

Printed, as one JSON line a network: the machine; medians of the seconds that a batch takes and of
the processor's, all cores together (where other programs run too, only these tell something, and
only of one core: `taskset -c 0`); the most memory that a turn held beside weights, pictures and
compiled program; and pictures a second. Linux only. Both use all cores that the process may.
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
from imagen_jax.config.rules import require_positive
from imagen_jax.errors import UsageError, exit_on_usage_error

SIDES = {"clip-b32": 224, "clip-l14": 224, "dinov2-l14": 224, "inception": 299}
"""Network -> pixels of a side of the pictures that it reads."""
TOLERANCE = 1e-3
"""Of features, most of which lie between -3 and 3."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    repeats: int = 5
    """Timed batches of each side from one start to the next; the median of all counts."""
    starts: int = 2
    """How often each side is started; ours compiles each time."""
    batch_size: int = 8
    networks: tuple[str, ...] = tuple(SIDES)
    pytorch_python: str = sys.executable
    """An interpreter that has torch, torchvision, transformers and pytorch-fid."""


def measure(flags: Flags) -> None:
    require_positive(flags, "repeats", "starts", "batch_size")
    if unknown := sorted(set(flags.networks) - set(SIDES)):
        raise UsageError(f"networks has {unknown[0]!r}; it must be of {', '.join(SIDES)}.")
    machine = {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "jax": jax.__version__}
    for network in flags.networks:
        with tempfile.TemporaryDirectory() as place:
            found = compare(network, flags, Path(place))
        report(network, **machine, batch_size=flags.batch_size, **found)


def compare(network: str, flags: Flags, directory: Path) -> dict[str, Any]:
    """Medians of all sides, and our ratios to the faster one of PyTorch's."""
    side = SIDES[network]
    pictures = np.random.default_rng(0).integers(0, 256, (flags.batch_size, side, side, 3))
    np.save(directory / "pictures.npy", pictures.astype(np.float32))
    torch = [HERE / "features_torch_side.py", directory, network]
    make_network(flags.pytorch_python, [*torch, "make"])
    theirs = [Side("pytorch", [flags.pytorch_python, *torch])]
    if network == "inception":  # The others have one convolution, of the pictures themselves.
        command = [flags.pytorch_python, *torch, "channels_last"]
        theirs.append(Side("pytorch_channels_last", command))
    here = ours([sys.executable, HERE / "features_jax_side.py", directory, network])
    length = Length(flags.repeats, flags.starts)
    found = race(network, [here, *theirs], length, TOLERANCE, directory)
    del found["shares"]
    for one in (here, *theirs):
        found[f"{one.name}_pictures_per_second"] = flags.batch_size / one.median("seconds")
    return found


def main() -> None:
    with exit_on_usage_error():
        measure(parse_flags(lambda: tyro.cli(Flags, description=__doc__)))


if __name__ == "__main__":
    main()
