"""The device mesh and the one rule that places every array on it.

Axes, from the least traffic to the most: `data` (copies of the state), `fsdp` (the state and the
batch in parts) and `spatial` (the height of a picture in parts).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import linear_call
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError

AXES = ("data", "fsdp", "spatial")
_BATCH_AXES = ("data", "fsdp")
_REPLICATE_BELOW = 2**14
"""Arrays of fewer elements are copied to every device: gathering them costs more."""


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices as (data, fsdp, spatial); neighbours on the wires are neighbours on the mesh.

    A slice is a set of devices with a fast network of their own (of a TPU pod, or what JAX
    takes for one elsewhere). `fsdp` and `spatial` lie inside a slice; only `data`, which sums
    gradients once a step, crosses the slow network between slices.

    Args:
        config: `fsdp` 0 takes all devices of a slice that `spatial` leaves.
        devices: None for all of JAX's; also those of a compile-only topology.

    Raises:
        UsageError: fsdp x spatial does not divide a slice.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    shape = slice_shape(config, len(devices) // slices)
    # Splitting the axes of a TPU's torus allows shapes that it has no axis for.
    if slices == 1:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_hybrid_device_mesh(
            shape, (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slice_shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """(data, fsdp, spatial) of the devices of one slice.

    Raises:
        UsageError: fsdp x spatial does not divide them.
    """
    fsdp = config.fsdp or max(devices // config.spatial, 1)
    if devices % (fsdp * config.spatial):
        asked = f"mesh.fsdp is {fsdp} and " if config.fsdp else ""
        raise UsageError(
            f"{asked}mesh.spatial is {config.spatial}; their product must divide the {devices} "
            "devices of a slice."
        )
    return devices // (fsdp * config.spatial), fsdp, config.spatial


def parameter_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Shards the largest axis that fsdp divides; small arrays are replicated.

    The rule reads nothing but the shape, so optimizer moments, EMA and frozen encoders lie as
    parameters do. The step must constrain gradients to the same: where moments lay otherwise
    than the parameters of a scanned stack, and gradients were left to the partitioner, JAX
    0.10 and 0.12 computed a wrong loss without a word. The tests compare with one device.
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


def gather_parameters(tree: Any, *, mesh: Mesh, dtype: str) -> Any:
    """The parameters of one block, whole on every device, for the time that the block runs.

    Sharded arrays are sent in `dtype`, that of the computation. Their gradients, which the
    backward pass computes in the same dtype, are summed over the devices and then kept in
    parts, in the parameters' own dtype. Said here, where a block starts, it is one all-gather
    each way and one sum; unsaid, the partitioner may choose to move activations instead.
    """
    return jax.tree.map(lambda x: _gather(x, mesh, dtype), tree)


def _gather(x: jax.Array, mesh: Mesh, dtype: str) -> jax.Array:
    parts = NamedSharding(mesh, parameter_spec(x.shape, mesh.shape["fsdp"]))
    if parts.is_fully_replicated:
        return x
    place = jax.lax.with_sharding_constraint

    def gather(_: tuple[()], x: jax.Array) -> jax.Array:
        return place(x.astype(dtype), replicated(mesh))

    def transposed(_: tuple[()], gradient: jax.Array) -> jax.Array:
        summed = place(gradient.astype(x.dtype), replicated(mesh))
        # Cut into parts here: XLA would keep the whole gradients until the optimizer reads them.
        return jax.lax.optimization_barrier(place(summed, parts))

    # Linear, so it is its own derivative, and its gradient is the transposed.
    return linear_call(gather, transposed, (), x)


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Abstract arrays that say where they lie."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of tokens, keys and all that has one row a picture: the first axis in parts."""
    return NamedSharding(mesh, PartitionSpec(_BATCH_AXES))


def picture_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of pictures, (batch, height, width, channels): batch and height in parts."""
    return NamedSharding(mesh, PartitionSpec(_BATCH_AXES, "spatial"))


def batch_shardings(batch: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every (abstract) array of a batch: pictures have four axes."""
    return jax.tree.map(
        lambda x: picture_sharding(mesh) if len(x.shape) == 4 else batch_sharding(mesh), batch
    )


def batch_parts(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts a batch is divided."""
    return mesh.size // mesh.shape["spatial"]


def batch_starts(total: int, batch_size: int, mesh: Mesh) -> range:
    """Number of the first of `total` rows in every batch; its step is the size of a batch.

    That size is `batch_size`, at most `total`, rounded up to a multiple of the parts of a batch.
    """
    parts = batch_parts(mesh)
    return range(0, total, -(-min(batch_size, total) // parts) * parts)


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises a UsageError unless every part of the mesh gets the same number of pictures."""
    parts = batch_parts(mesh)
    if batch_size % parts:
        raise UsageError(
            f"A batch of {batch_size} pictures does not divide over {parts} devices; "
            f"choose a multiple of {parts}."
        )


def check_height(height: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises a UsageError unless every device gets the same number of a picture's rows."""
    parts = mesh.shape["spatial"]
    if height % parts:
        raise UsageError(
            f"A picture {height} pixels high does not divide over {parts} devices; "
            f"choose a number that divides {height}."
        )


def _local_parts(mesh: Mesh) -> list[int]:
    """Which parts of a batch this process's devices hold."""
    parts = batch_parts(mesh)
    held = batch_sharding(mesh).addressable_devices_indices_map((parts,)).values()
    return sorted({index[0].indices(parts)[0] for index in held})


def local_rows(batch_size: int, mesh: Mesh) -> list[int]:
    """Which pictures of a global batch this process's devices hold, in order."""
    size = batch_size // batch_parts(mesh)
    return [part * size + row for part in _local_parts(mesh) for row in range(size)]


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The `local_rows` of a batch -> global arrays."""
    held = _local_parts(mesh)

    def place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        size = len(x) // len(held)
        shape = (size * batch_parts(mesh), *x.shape[1:])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            start = held.index(index[0].indices(shape[0])[0] // size) * size
            return x[(slice(start, start + size), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, batch, batch_shardings(batch, mesh))


def place_rows(tree: Any, mesh: Mesh) -> Any:
    """Arrays with one row a picture, the same on every process, in parts onto the mesh."""
    sharding = batch_sharding(mesh)

    def place(x: jax.Array | np.ndarray) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return place_on_all(x, sharding)

    return jax.tree.map(place, tree)


def place_parameters(tree: Any, shardings: Any) -> Any:
    """Parameters onto the mesh, from anywhere; of the host's, every process sends its parts."""

    def place(x: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        return place_on_all(x, sharding)

    return jax.tree.map(place, tree, shardings)


def place_on_all(x: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every process holds, in parts onto the devices of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def to_host(tree: Any) -> Any:
    """Numpy arrays on every process; all processes must call it."""

    def fetch(x: jax.Array | np.ndarray) -> np.ndarray:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(fetch, tree)
