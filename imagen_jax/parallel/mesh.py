"""The device mesh and the one rule that places every array on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError

_REPLICATE_BELOW = 2**14
"""Arrays of fewer elements are copied to every device: gathering them costs more."""


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """All devices as (data, fsdp); `config.fsdp` 0 puts all of them on fsdp.

    Raises:
        UsageError: fsdp does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    fsdp = config.fsdp or len(devices)
    if len(devices) % fsdp:
        raise UsageError(f"mesh.fsdp is {fsdp}; it must divide the {len(devices)} devices.")
    grid = np.asarray(devices).reshape(len(devices) // fsdp, fsdp)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def parameter_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Shards the largest axis that fsdp divides; small arrays are replicated.

    The rule reads nothing but the shape, so optimizer moments and EMA lie as their parameter.
    """
    divisible = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not divisible or np.prod(shape) < _REPLICATE_BELOW:
        return PartitionSpec()
    # The last of equals: output channels.
    largest = max(divisible, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*(None if axis != largest else "fsdp" for axis in range(len(shape))))


def parameter_shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A NamedSharding for every (abstract) array of a tree, by `parameter_spec`."""
    fsdp = mesh.shape["fsdp"]
    return jax.tree.map(lambda x: NamedSharding(mesh, parameter_spec(x.shape, fsdp)), tree)


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Abstract arrays that say where they lie."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises a UsageError unless every device gets the same number of pictures."""
    if batch_size % mesh.size:
        raise UsageError(
            f"A batch of {batch_size} pictures does not divide over {mesh.size} devices; "
            f"choose a multiple of {mesh.size}."
        )


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch -> global arrays, sharded over all devices."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
