"""What a machine's files and variables say of processes and accelerators; no JAX is imported.

A run of more than one process is found from, in this order,

- `--distributed.*` flags: the address of process 0, the number of processes, this one's number;
- `JAX_COORDINATOR_ADDRESS`, JAX's own variable, in a cluster that JAX knows;
- SLURM's variables, which `srun` sets: one process per task;
- the hosts of a TPU slice (or several), where this machine has TPU chips: from the variables of
  a GKE job, else JAX asks the metadata server of a TPU VM.

Anywhere else nothing is started and no network is touched.
"""

import dataclasses
import glob
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagen_jax.errors import UsageError

_GOOGLE_PCI = "0x1ae0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedFlags:
    """Several processes that nothing but these flags connects; TPU pods and SLURM need none."""

    coordinator: str = ""
    """HOST:PORT of process 0, a port that is free there; the same on every process."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What start-up reads of a machine."""

    environ: Mapping[str, str]
    tpu: bool
    """TPU chips are visible and libtpu is installed."""
    gpu: bool
    """An NVIDIA GPU is visible and JAX's CUDA plugin is installed."""

    @classmethod
    def here(cls) -> "Machine":
        plugins = importlib.metadata.entry_points(group="jax_plugins").names
        return cls(
            environ=os.environ,
            tpu=_sees_tpu() and importlib.util.find_spec("libtpu") is not None,
            gpu=any(map(os.path.exists, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")))
            and any(name.startswith("xla_cuda") for name in plugins),
        )


def _sees_tpu() -> bool:
    """A device file as TPUs have, and a PCI card of Google's (either alone is no proof)."""
    vendors = map(Path, glob.glob("/sys/bus/pci/devices/*/vendor"))
    files = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(files) and any(v.read_text().strip() == _GOOGLE_PCI for v in vendors)


def start_arguments(flags: DistributedFlags, machine: Machine) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is called with; None for a process that is alone."""
    if flags != DistributedFlags():
        return _explicit(flags)
    environ = machine.environ
    uses_tpu = machine.tpu and "tpu" in (environ.get("JAX_PLATFORMS") or "tpu")
    several = (
        "JAX_COORDINATOR_ADDRESS" in environ
        or _slurm_tasks(environ) > 1
        or (uses_tpu and _tpu_hosts(environ) != 1)
    )
    return {} if several else None


def _explicit(flags: DistributedFlags) -> dict[str, Any]:
    count, number = flags.num_processes, flags.process_id
    if not flags.coordinator or count is None or number is None:
        raise UsageError(
            "--distributed.coordinator, --distributed.num-processes and "
            "--distributed.process-id go together; give all three."
        )
    _, colon, port = flags.coordinator.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(
            f"--distributed.coordinator is {flags.coordinator!r}; it must be HOST:PORT."
        )
    if not 0 <= number < count:
        raise UsageError(
            f"--distributed.process-id is {number}; of {count} processes it must be at least 0 "
            f"and below {count}."
        )
    # A process has all devices of its machine, whatever cluster it may be in.
    return {
        "coordinator_address": flags.coordinator,
        "num_processes": count,
        "process_id": number,
        "cluster_detection_method": "deactivate",
    }


def _slurm_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the job step that this process is one of; 1 outside SLURM."""
    tasks = int(environ.get("SLURM_NTASKS", 1))
    if tasks > 1 and "SLURM_STEP_NODELIST" not in environ:
        raise UsageError(
            f"SLURM_NTASKS is {tasks}, but this process was not started by srun; start all with "
            "`srun python train.py ...`, or one alone with `srun --ntasks=1`."
        )
    return tasks


def _tpu_hosts(environ: Mapping[str, str]) -> int | None:
    """Hosts of all slices that a TPU machine belongs to; None where only its VM knows."""
    path = environ.get("TPU_PROCESS_ADDRESSES_PATH")
    listed = Path(path).read_text() if path else ""
    listed = listed or environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if listed:
        return len(listed.split(",")) * int(environ.get("MEGASCALE_NUM_SLICES", 1))
    return 1 if "TPU_SKIP_MDS_QUERY" in environ else None


def missing_accelerator(platforms: str, backend: str, machine: Machine) -> str | None:
    """Why another backend was to be expected; None where the right one runs."""
    if backend != "cpu" or platforms.startswith("cpu"):
        return None
    if platforms:
        return f"JAX_PLATFORMS is {platforms!r}, but JAX fell back to the CPU"
    if machine.tpu or machine.gpu:
        found = "TPU chips and libtpu" if machine.tpu else "an NVIDIA GPU and JAX's CUDA plugin"
        return f"This machine has {found}, but JAX fell back to the CPU"
    return None
