"""Sums that tell whether arrays are the ones that were saved, wherever they have been since."""

from typing import Any

import jax
import jax.numpy as jnp


def checksums(tree: Any) -> dict[str, int]:
    """One number of 32 bits per array, by its path with dots ("unet.conv_in.kernel").

    It does not depend on how an array is sharded. All processes must call it; of arrays that
    each process has whole, each sums its own.
    """
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    # One after another: of many programs at once that sum over devices, XLA's CPU threads may all
    # wait for the first while the devices are at different ones, which ends the process.
    sums = [int(_checksum(x)) for x in jax.tree.leaves(tree)]
    return dict(zip(names, sums, strict=True))


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    """sum_i (2 i + 1) w_i mod 2^32, where w_i are the bits of element i.

    The factors are odd, so any one element that differs changes the sum; elements that are
    exchanged change it too. It is one pass over the array, on its devices.
    """
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    index = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = index * size + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum((2 * index + 1) * words.astype(jnp.uint32), dtype=jnp.uint32)
