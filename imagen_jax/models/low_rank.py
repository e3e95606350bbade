"""Low-rank adapters of the kernels of trained networks (LoRA, Hu et al. 2021).

    W' = W + s A B        A: (..., inputs, rank), B: (rank, outputs)

Of a convolution A is a convolution to `rank` channels and B one of 1x1. An adapter is a pytree like
that of the networks' parameters, in which each kernel that it adds to is replaced by its two
factors, "down" and "up".
"""

import fnmatch
import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from imagen_jax.config import AdapterConfig
from imagen_jax.errors import UsageError

Params = dict[str, Any]
Path = tuple[str | int, ...]
DOWN, UP = "down", "up"
"""What A and B are called."""
_KERNEL = "kernel"


def targets(params: Params, patterns: Sequence[str]) -> list[Path]:
    """Paths of the kernels whose names one of the patterns fits.

    Raises:
        UsageError: a pattern fits no kernel.
    """
    names = {".".join(map(str, p)): p for p in flatten_dict(params) if p[-1] == _KERNEL}
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UsageError(
                f"adapter.targets has {pattern!r}, which fits no kernel; their names are like "
                f"{min(names)} and {max(names)}."
            )
    return [p for name, p in names.items() if any(fnmatch.fnmatchcase(name, x) for x in patterns)]


def init(config: AdapterConfig, params: Params, key: jax.Array) -> Params:
    """A fresh adapter, which adds nothing: B is zero, A is normal with variance 1 / inputs.

    Args:
        params: of the networks; they may be abstract.
    """
    kernels, made = flatten_dict(params), {}
    for number, path in enumerate(targets(params, config.targets)):
        *inputs, outputs = kernels[path].shape
        drawn = jax.random.normal(jax.random.fold_in(key, number), (*inputs, config.rank))
        made[*path, DOWN] = drawn * math.prod(inputs) ** -0.5
        made[*path, UP] = jnp.zeros((config.rank, outputs))
    return unflatten_dict(made)


def kernel_paths(adapter: Params) -> Collection[Path]:
    """Of the kernels that it adds to."""
    return dict.fromkeys(path[:-1] for path in flatten_dict(adapter))


def merge(params: Params, adapter: Params, scale: float | jax.Array) -> Params:
    """The parameters with the adapter added, `scale` times; each in its own dtype."""
    merged, factors = flatten_dict(params), flatten_dict(adapter)
    for path in kernel_paths(adapter):
        kernel = merged[path]
        down, up = (factors[*path, x].astype(jnp.float32) for x in (DOWN, UP))
        added = jnp.matmul(down, up, precision="highest")
        merged[path] = (kernel.astype(jnp.float32) + scale * added).astype(kernel.dtype)
    return unflatten_dict(merged)
