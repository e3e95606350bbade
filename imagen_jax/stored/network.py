"""The weights of one network of a stage where they are kept, in files or in a checkpoint."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from imagen_jax.config import MeshConfig
from imagen_jax.config.choices import Weights
from imagen_jax.networks import Params
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.storage.files import AnyPath, absolute
from imagen_jax.weights.stored import require_finite
from imagen_jax.weights.tensors import StoredParams, fingerprint, place_params


@dataclasses.dataclass(frozen=True)
class StoredNetwork:
    """The weights of one network of a stage where they are kept.

    Attributes:
        name: "unet" or "text_encoder".
        origin: the file or directory that holds them.
        abstract: shapes, and the dtypes in which they will be held.
        tensors: those of files; None for a checkpoint of a training directory.
        weights: which of a checkpoint's.
        step: of the checkpoint, so that all networks are of the same one.
    """

    name: str
    origin: AnyPath
    abstract: Params
    tensors: StoredParams | None
    weights: Weights = "ema"
    step: int | None = None

    @property
    def place(self) -> tuple[Any, ...]:
        """Equal for networks that are the same: where they are kept, and what is added to them."""
        return (absolute(self.origin), self.weights, self.step)

    def in_float32(self) -> "StoredNetwork":
        """The same, held in float32."""
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), self.abstract)
        return dataclasses.replace(self, abstract=abstract)

    def load(self, mesh: Mesh) -> Params:
        """The parameters, read straight into their shards on the mesh.

        Raises:
            UsageError: a file is damaged, or a number is not finite.
        """
        if self.tensors is not None:
            return place_params(self.tensors, self.abstract, mesh)
        from imagen_jax.checkpoints.weights import load_networks  # Orbax loads slowly.

        abstract = {self.name: self.abstract}
        loaded = load_networks(self.origin, abstract, mesh, self.weights, self.step)[self.name]
        for path, x in jax.tree.leaves_with_path(loaded):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            for shard in x.addressable_shards:
                if shard.replica_id == 0:
                    require_finite(np.asarray(shard.data), f"{self.origin}: {self.name}.{name}")
        return loaded

    def fingerprint(self) -> str:
        """The weights' fingerprint, as `weights.tensors.fingerprint`; files are read in part."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        if self.tensors is None:
            mesh = make_mesh(MeshConfig(), jax.local_devices())
            return fingerprint(flatten_dict(self.load(mesh)))
        return fingerprint(self.tensors)
