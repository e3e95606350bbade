"""Low-rank adapters where they are kept, and networks that they are added to."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from imagen_jax.checkpoints.directory import is_training_directory, read_config
from imagen_jax.config import AdapterConfig, MeshConfig, StageConfig
from imagen_jax.config.choices import Weights
from imagen_jax.errors import UsageError
from imagen_jax.models import low_rank
from imagen_jax.networks import ADAPTER, Params, abstract_params
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import make_mesh, to_host
from imagen_jax.storage.digests import sealed, unsealed
from imagen_jax.storage.files import AnyPath, absolute, write_text
from imagen_jax.storage.json_text import read_object
from imagen_jax.stored.network import StoredNetwork
from imagen_jax.weights.adapter_file import is_adapter_file, open_adapter_file
from imagen_jax.weights.tensors import ParamPath, fingerprint

_ACCOUNT = "adapts.json"


@dataclasses.dataclass(frozen=True)
class StoredAdapter:
    """An adapter where it is kept; nothing of it is read yet.

    Attributes:
        origin: the file or training directory.
        config: how it is added.
        fits: network -> fingerprint of the weights that it was trained beside.
        shapes: of its factors.
        load: reads them, float32, on the host.
    """

    origin: AnyPath
    config: AdapterConfig
    fits: dict[str, str]
    shapes: dict[ParamPath, tuple[int, ...]]
    load: Callable[[], Params]


def holds_adapter(path: AnyPath) -> bool:
    """Whether a path is the training directory of an adapter."""
    return is_training_directory(path) and bool(read_config(path).adapter.rank)


def is_adapter(path: AnyPath) -> bool:
    """Whether a path is an adapter's training directory or file.

    Raises:
        UsageError: a file of weights is damaged.
    """
    return holds_adapter(path) or (path.is_file() and is_adapter_file(path))


def open_adapter(path: AnyPath, weights: Weights = "ema") -> StoredAdapter:
    """An adapter in a training directory or an exported file.

    Args:
        path: of either.
        weights: which of a training directory's.

    Raises:
        UsageError: it is neither, or damaged.
    """
    if is_training_directory(path):
        return _open_directory(path, weights)
    if not path.is_file():
        raise UsageError(f"{path} is neither a training directory nor an exported adapter.")
    file = open_adapter_file(path)
    shapes = {path: tensor.shape for path, tensor in file.tensors.items()}
    return StoredAdapter(path, file.config, file.fits, shapes, file.load)


def _open_directory(workdir: AnyPath, weights: Weights) -> StoredAdapter:
    config = read_config(workdir)
    if not config.adapter.rank:
        raise UsageError(f"{workdir} is the training directory of a stage, not of an adapter.")

    def load() -> Params:
        from imagen_jax.checkpoints.weights import load_directory  # Orbax loads slowly.

        return to_host(load_directory(workdir, make_mesh(MeshConfig()), weights)[1][ADAPTER])

    made = flatten_dict(abstract_params(config)[ADAPTER])
    shapes = {path: x.shape for path, x in made.items()}
    return StoredAdapter(workdir, config.adapter, read_account(workdir), shapes, load)


@dataclasses.dataclass(frozen=True)
class AdaptedNetwork(StoredNetwork):
    """A network with adapters added, each by a weight of its own; 1 is as it was trained.

    Attributes:
        adapters: with their weights.
    """

    adapters: tuple[tuple[StoredAdapter, float], ...] = ()

    @property
    def place(self) -> tuple[Any, ...]:
        added = ((absolute(adapter.origin), weight) for adapter, weight in self.adapters)
        return (*super().place, *added)

    def load(self, mesh: Mesh) -> Params:
        params = super().load(mesh)
        for adapter, weight in self.adapters:
            shardings = jax.tree.map(lambda x: x.sharding, params)
            add = jax.jit(low_rank.merge, donate_argnums=0, out_shardings=shardings)
            params = add(params, adapter.load()[self.name], weight * adapter.config.scale)
        return params

    def fingerprint(self) -> str:
        sha = hashlib.sha256(super().fingerprint().encode())
        for adapter, weight in self.adapters:
            factors = fingerprint(flatten_dict(adapter.load()[self.name]))
            sha.update(f"{factors} {weight * adapter.config.scale}".encode())
        return sha.hexdigest()


def adapted(network: StoredNetwork, adapter: StoredAdapter, weight: float) -> StoredNetwork:
    """The network with one adapter more; the same where that adds nothing to it.

    Raises:
        UsageError: the adapter was trained beside other weights.
    """
    shapes = {path[1:]: shape for path, shape in adapter.shapes.items() if path[0] == network.name}
    if not shapes:
        return network
    fields = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    before = fields.pop("adapters", ())
    if adapter.fits.get(network.name) != StoredNetwork(**fields).fingerprint():
        raise UsageError(
            f"{adapter.origin} is an adapter of another stage than {network.origin}: its "
            f"{network.name} has other weights."
        )
    _check_shapes(adapter, shapes, network)
    return AdaptedNetwork(**fields, adapters=(*before, (adapter, weight)))


def _check_shapes(
    adapter: StoredAdapter, shapes: dict[ParamPath, tuple[int, ...]], network: StoredNetwork
) -> None:
    """Of a file that was made by hand: each pair of factors must make its kernel."""
    kernels = {path: x.shape for path, x in flatten_dict(network.abstract).items()}
    for path in {path[:-1] for path in shapes}:
        down, up = (shapes.get((*path, name), ()) for name in (low_rank.DOWN, low_rank.UP))
        made = (*down[:-1], *up[1:]) if len(up) == 2 and down[-1:] == up[:1] else None
        if made is None or kernels.get(path) != made:
            raise UsageError(
                f"{adapter.origin}: {'.'.join(map(str, path))} has factors of {down} and {up}; "
                f"the kernel of {network.origin} has shape {kernels.get(path)}."
            )


def fits_of(config: StageConfig, networks: dict[str, StoredNetwork]) -> dict[str, str]:
    """Network -> fingerprint, of those that the config's adapter changes."""
    abstract = {name: network.abstract for name, network in networks.items()}
    chosen = {path[0] for path in low_rank.targets(abstract, config.adapter.targets)}
    return {name: networks[name].fingerprint() for name in sorted(chosen)}


def check_account(workdir: AnyPath, fits: dict[str, str]) -> None:
    """Raises a UsageError for an adapter that was trained beside other weights so far."""
    if (workdir / _ACCOUNT).exists() and read_account(workdir) != fits:
        raise UsageError(
            f"{workdir} holds an adapter that was trained beside other weights than those that "
            "adapter.base names now."
        )


def keep_account(workdir: AnyPath, fits: dict[str, str]) -> None:
    """Notes in a training directory what its adapter is trained beside; one process writes."""
    if distributed.leads():
        write_text(workdir / _ACCOUNT, json.dumps(sealed(fits), indent=2))


def read_account(workdir: AnyPath) -> dict[str, Any]:
    """What `keep_account` noted.

    Raises:
        UsageError: there is nothing, or it is damaged.
    """
    path = workdir / _ACCOUNT
    if not path.is_file():
        raise UsageError(f"{workdir} does not say what its adapter was trained beside.")
    return unsealed(read_object(path), str(path))
