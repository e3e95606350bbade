"""Bytes of HBM per chip in use at a training step's peak, by arithmetic: nothing is compiled.

The program's code and the gaps between arrays come on top.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from imagen_jax.checkpoints.state import abstract_first_state
from imagen_jax.config import StageConfig
from imagen_jax.costs.liveness import peak_bytes
from imagen_jax.errors import UsageError
from imagen_jax.networks import abstract_adapted, abstract_frozen_encoder, build_networks
from imagen_jax.parallel import mesh as meshes
from imagen_jax.parallel.seeds import key_of
from imagen_jax.training.adapting import of_adapter
from imagen_jax.training.objective import mean_loss
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.step import abstract_batch
from imagen_jax.training.teachers import abstract_teacher, own_objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes per chip.

    Attributes:
        parameters: trained ones, float32 shards.
        ema: their moving average.
        optimizer: moments.
        gradients: one shard, two while gradients are accumulated.
        activations: what the backward pass needs of the forward pass and whatever else is
            there at the same time, by `liveness.py`.
        batch: pictures and tokens.
        frozen: shards of what is held fixed, such as a text encoder.
    """

    parameters: int
    ema: int
    optimizer: int
    gradients: int
    activations: int
    batch: int
    frozen: int

    @property
    def total(self) -> int:
        return sum(dataclasses.asdict(self).values())


def estimate(config: StageConfig, chips: int) -> Estimate:
    """What one training step takes of each of `chips` chips.

    Raises:
        UsageError: the mesh or the batch does not divide.
    """
    mesh = _abstract_mesh(config, chips)
    parts = config.training.accumulation_steps
    meshes.check_batch_size(config.training.batch_size // parts, mesh)
    state = abstract_first_state(config, make_optimizer(config.optimizer))
    frozen = abstract_teacher(config)
    if config.adapter.rank:
        frozen["unet"] = abstract_adapted(config)["unet"]
    if config.runs_frozen_encoder:
        frozen["text_encoder"] = abstract_frozen_encoder(config.text_encoder.network)
    shard_bytes = functools.partial(_shard_bytes, mesh=mesh)
    here = config.training.batch_size // meshes.batch_parts(mesh)
    rows = mesh.shape["spatial"]
    return Estimate(
        parameters=shard_bytes(state.params),
        ema=shard_bytes((state.ema, state.power_ema)),
        optimizer=shard_bytes(state.opt_state),
        gradients=shard_bytes(state.params) * (1 if parts == 1 else 2),
        activations=_activations(config, state.params, frozen, here // parts) // rows,
        batch=_bytes(abstract_batch(config, here)) // rows,
        frozen=shard_bytes(frozen),
    )


def to_text(config: StageConfig, chips: int, parts: Estimate) -> str:
    """The estimate, one part a line."""
    total = {**dataclasses.asdict(parts), "total": parts.total}
    title = f"{config.name}, batch {config.training.batch_size} on {chips} chips; bytes per chip:"
    lines = [f"  {name:14s}{size / 2**20:12,.1f} MiB" for name, size in total.items()]
    return "\n".join([title, *lines, "The program's code and gaps between arrays come on top."])


def _abstract_mesh(config: StageConfig, chips: int) -> AbstractMesh:
    if chips < 1:
        raise UsageError(f"--chips is {chips}; it must be at least 1.")
    shape = meshes.slice_shape(config.mesh, chips)
    return AbstractMesh(shape, meshes.AXES, axis_types=(AxisType.Auto,) * len(shape))


def _activations(config: StageConfig, params: Any, frozen: Any, pictures: int) -> int:
    """The bytes of one chip's `pictures`, through the loss and its gradient."""
    objective = own_objective(config)
    objective = of_adapter(objective) if config.adapter.rank else objective
    loss = functools.partial(mean_loss, objective, config, build_networks(config))
    batch = abstract_batch(config, pictures)
    keys = jax.eval_shape(lambda: jax.random.split(key_of(0), pictures))
    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(params, frozen, batch, keys).jaxpr
    weights = len(jax.tree.leaves((params, frozen)))
    others = len(jaxpr.invars) - weights
    gradients = len(jaxpr.outvars) - 1
    return peak_bytes(jaxpr, [True] * weights + [False] * others, [False] + [True] * gradients)


def _shard_bytes(tree: Any, mesh: AbstractMesh) -> int:
    shardings = meshes.parameter_shardings(tree, mesh)
    shards = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(sharding.shard_shape(x.shape), x.dtype),
        tree,
        shardings,
    )
    return _bytes(shards)


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
