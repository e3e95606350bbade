"""Which networks of a cascade stay in memory between calls."""

import math
import os
from collections.abc import Sequence
from typing import Literal

import jax
from jax.sharding import Mesh

from imagen_jax.networks import Params
from imagen_jax.parallel import mesh as meshes
from imagen_jax.stored.stages import StoredStage

Keep = Literal["all", "one"]
"""Every network stays once it is loaded, or one is in memory at a time."""
_SHARE = 0.5
"""Of a device's memory; the rest is for pictures, activations and whatever else runs there."""


def default_keep(stages: Sequence[StoredStage], mesh: Mesh, enlargement: float = 1.0) -> Keep:
    """`all` where the networks together take at most half of the memory of each device.

    Args:
        enlargement: area of the pictures by that of those trained on. Activations grow with it
            and with the networks, so larger pictures count the networks as often.
    """
    networks = [network for stage in stages for network in (stage.unet, stage.text_encoder)]
    needed = sum(_bytes_a_device(n.abstract, mesh) for n in networks if n is not None)
    needed *= max(enlargement, 1.0)
    return "all" if needed <= _SHARE * _memory(mesh.local_devices[0]) else "one"


def _bytes_a_device(abstract: Params, mesh: Mesh) -> int:
    """What parameters take on each device of the mesh."""
    shardings = meshes.parameter_shardings(abstract, mesh)
    parts = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, abstract, shardings
    )
    return sum(jax.tree.leaves(parts))


def _memory(device: jax.Device) -> int:
    """Bytes of the device; of a CPU its machine's, shared by all CPU devices."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return limit
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // device.client.local_device_count()
