"""Which networks of a cascade stay in memory between calls, and which lie there whole."""

import functools
import math
import os
from collections.abc import Sequence
from typing import Literal

import jax
from jax.sharding import Mesh

from imagen_jax.config import StageConfig
from imagen_jax.costs.chips import chip_of_kind
from imagen_jax.networks import Networks, Params, build_networks, without_remat
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.prompts import place_of
from imagen_jax.stored.stages import StoredStage

Keep = Literal["all", "one"]
"""Every network stays once it is loaded, or one is in memory at a time."""
_SHARE = 0.5
"""Of a device's memory; the rest is for pictures, activations and whatever else runs there."""
_WHOLE_SHARE = 0.75
"""The same while a network lies there whole, beside the parts of all."""


def default_keep(stages: Sequence[StoredStage], mesh: Mesh, enlargement: float = 1.0) -> Keep:
    """`all` where the networks together take at most half of the memory of each device.

    Args:
        enlargement: area of the pictures by that of those trained on. Activations grow with it
            and with the networks, so larger pictures count the networks as often.
    """
    needed = bytes_of_all(stages, mesh) * max(enlargement, 1.0)
    return "all" if needed <= _SHARE * device_memory(mesh) else "one"


def gathers_once(unet: Params, mesh: Mesh, held: int, enlargement: float = 1.0) -> bool:
    """Whether a U-Net in parts is brought together once for all steps of a batch.

    It is where the whole takes, with what is held, at most three quarters of the memory of each
    device. Else each block's parameters are sent anew whenever the block runs.

    Args:
        unet: its parameters, which may be abstract.
        held: bytes of each device that networks take meanwhile, the parts of this one too.
        enlargement: as `default_keep` takes it.
    """
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(unet))
    needed = (held + whole) * max(enlargement, 1.0)
    return mesh.shape["fsdp"] > 1 and needed <= _WHOLE_SHARE * device_memory(mesh)


def networks_of_steps(config: StageConfig, mesh: Mesh, gathered: bool) -> Networks:
    """A stage's networks as its steps run them.

    Args:
        gathered: whether the U-Net's parameters are brought together before the steps. Else, on
            devices that hold parts of them, the scans of its remat see to it that the parameters
            of one block are there at a time.
    """
    if gathered or mesh.shape["fsdp"] == 1:
        config = without_remat(config)
    return build_networks(config, functools.partial(meshes.gather_parameters, mesh=mesh))


def bytes_of_all(stages: Sequence[StoredStage], mesh: Mesh) -> int:
    """What the parts of all networks take on each device; stages share equal text encoders."""
    encoders = {place_of(stage): stage.text_encoder for stage in stages if stage.text_encoder}
    networks = [*(stage.unet for stage in stages), *encoders.values()]
    return sum(bytes_a_device(network.abstract, mesh) for network in networks)


def bytes_a_device(abstract: Params, mesh: Mesh) -> int:
    """What parameters take on each device of the mesh."""
    shardings = meshes.parameter_shardings(abstract, mesh)
    parts = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, abstract, shardings
    )
    return sum(jax.tree.leaves(parts))


def device_memory(mesh: Mesh) -> int:
    """Bytes of a device; of a CPU its machine's, shared by all CPU devices."""
    device = mesh.devices.flat[0]
    if chip := chip_of_kind(device.device_kind):  # A TPU's are known where there is none, too.
        return chip.hbm_bytes
    device = mesh.local_devices[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return limit
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // device.client.local_device_count()
