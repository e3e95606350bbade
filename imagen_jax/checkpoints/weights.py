"""The weights in a training directory's newest checkpoint, without the rest of the run's state."""

import contextlib

import jax
import jax.numpy as jnp

from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import read_config
from imagen_jax.config import StageConfig
from imagen_jax.config.choices import Weights
from imagen_jax.networks import Params, abstract_params
from imagen_jax.parallel.mesh import parameter_shardings, with_shardings
from imagen_jax.storage.files import AnyPath

_ITEMS: dict[Weights, str] = {"ema": "ema", "raw": "params"}


def load_directory(
    workdir: AnyPath, mesh: jax.sharding.Mesh, weights: Weights = "ema"
) -> tuple[StageConfig, Params]:
    """Config of a training directory, and parameters of its newest checkpoint.

    Args:
        workdir: the directory; nothing in it is changed.
        mesh: that the parameters are placed on.
        weights: which of them.

    Raises:
        UsageError: it holds no checkpoint that is whole.
    """
    config = read_config(workdir)
    return config, load_networks(workdir, abstract_params(config), mesh, weights)


def load_networks(
    workdir: AnyPath,
    abstract: Params,
    mesh: jax.sharding.Mesh,
    weights: Weights,
    at_most: int | None = None,
) -> Params:
    """The parameters of the networks in `abstract`, in its dtypes, on the mesh.

    Args:
        workdir: training directory; nothing in it is changed.
        abstract: shapes and dtypes.
        mesh: that the parameters are placed on.
        weights: which of them.
        at_most: step that the checkpoint must not be newer than; None takes the newest.

    Raises:
        UsageError: as `load_directory`.
    """
    stored = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), abstract)
    stored, item = with_shardings(stored, parameter_shardings(stored, mesh)), _ITEMS[weights]
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        restored = checkpoints.restore(lambda _: {item: stored}, at_most)
    return jax.tree.map(_cast, restored.items[item], abstract)


def _cast(x: jax.Array, abstract: jax.ShapeDtypeStruct) -> jax.Array:
    """The array in another dtype; the memory of the old one is free again."""
    if x.dtype == abstract.dtype:
        return x
    cast = x.astype(abstract.dtype)
    x.delete()
    return cast
