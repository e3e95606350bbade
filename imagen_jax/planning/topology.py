"""Devices of TPU slices that are not there, for the TPU compiler that comes with libtpu."""

import importlib.util
import os

from imagen_jax.costs.chips import known_topologies
from imagen_jax.errors import UsageError

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "0",
    # It holds what was compiled, but cannot read it back without a TPU.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    # Without these libtpu asks a metadata server, which only a TPU VM has, and complains.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # Two processes may compile at once: neither owns a TPU.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def has_compiler() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def check_topology(name: str, num_slices: int) -> None:
    """Says what is wrong before JAX is imported.

    Raises:
        UsageError: no such topology, no slice, or no compiler.
    """
    if name not in known_topologies():
        raise UsageError(
            f"--topology is {name!r}; the topologies are {', '.join(known_topologies())}."
        )
    if num_slices < 1:
        raise UsageError(f"--num-slices is {num_slices}; it must be at least 1.")
    if not has_compiler():
        raise UsageError(
            "libtpu, which holds the TPU compiler, is not installed; "
            'run `pip install libtpu` or install this package with its extra "tpu".'
        )


def use_compiler_alone() -> None:
    """Lets this process compile for TPUs and compute on its CPU; call it before JAX starts."""
    os.environ.update(_ENVIRONMENT)


def slice_devices(name: str, num_slices: int = 1) -> list:
    """The devices of `num_slices` slices, one a chip; programs can only be compiled for them.

    Args:
        name: one of `known_topologies()`.
        num_slices: more than one are joined by the data-centre network.

    Raises:
        UsageError: no such topology, no slice, or no compiler.
    """
    check_topology(name, num_slices)
    from jax.experimental import topologies

    generation, _, sides = name.partition(":")
    options: dict = {"num_slices": num_slices} if num_slices > 1 else {}
    if generation == "v4":
        # Both cores of a v4 chip as one device; the later generations do so by themselves.
        options["chip_config_name"] = "megacore"
    if sides == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    return list(topologies.get_topology_desc(name, "tpu", **options).devices)
