"""Tensors of others' files as the parameters of a network, by a map of names."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict

from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import Dtype
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import shown
from imagen_jax.weights.hugging_face import Tensors
from imagen_jax.weights.stored import check_fit
from imagen_jax.weights.tensors import ParamPath, StoredParams

Names = dict[str, ParamPath]
"""Of each stored tensor, its path among the parameters of a network."""


def abstract_params(make: Callable[[], nnx.Module], dtype: Dtype) -> Params:
    """Shapes of all parameters of a network that `make` makes; none is made."""
    made = nnx.eval_shape(lambda: nnx.to_pure_dict(nnx.state(make(), nnx.Param)))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), made)


def fit_named(tensors: Tensors, names: Names, abstract: Params, source: AnyPath) -> StoredParams:
    """The tensors by their paths; those that become a `kernel` are stored the other way round,
    outputs first.

    Raises:
        UsageError: a tensor is missing, left over, of another shape or holds no floats.
    """
    tensors = dict(tensors)
    for name, path in names.items():
        if name in tensors and path[-1] == "kernel":
            tensors[name] = dataclasses.replace(tensors[name], transposed=True)
    shapes = {path: x.shape for path, x in flatten_dict(abstract).items()}
    check_fit(tensors, {name: shapes[path] for name, path in names.items()}, source)
    return {path: tensors[name] for name, path in names.items()}


def require_values(stored: dict[str, Any], fixed: dict[str, Any], path: AnyPath, of: str) -> None:
    """Raises a UsageError unless a config of Hugging Face has these values."""
    for name, value in fixed.items():
        if stored.get(name) != value:
            raise UsageError(f"{path} has {name} {shown(stored.get(name))}; {of} has {value!r}.")


def sizes_of(stored: dict[str, Any], names: dict[str, str], path: AnyPath) -> dict[str, int]:
    """The integers of a config of Hugging Face by the names of ours.

    Args:
        names: of each field of ours, what theirs is called.

    Raises:
        UsageError: one is missing or no integer.
    """
    for name in names.values():
        if type(stored.get(name)) is not int:
            raise UsageError(f"{path} has {name} {shown(stored.get(name))}; it must be an integer.")
    return {ours: stored[theirs] for ours, theirs in names.items()}


def require_same(stored: Checked, wanted: Checked, source: AnyPath, of: str) -> None:
    """Raises a UsageError that names the first size in which a stored network is another one."""
    for field in dataclasses.fields(wanted):
        ours, theirs = getattr(wanted, field.name), getattr(stored, field.name)
        if field.name not in ("dtype", "remat") and ours != theirs:
            raise UsageError(
                f"The {of} in {source} has {field.name} {theirs!r}; the configuration has {ours!r}."
            )
