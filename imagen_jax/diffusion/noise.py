"""Where all noise of sampling is drawn: by a picture's own key, or on the way between two keys."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from imagen_jax.arrays import Images, Keys, Traced


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeysBetween:
    """A pair of keys for each picture: it draws w_0 eps_0 + w_1 eps_1, a point of an arc.

    eps_0 and eps_1 are what the two keys draw, and w_0^2 + w_1^2 = 1, so each draw is N(0, I).
    Weights of 1 and 0 give what one key draws, to the bit.

    Attributes:
        one, other: `Keys`.
        weights: float32 [batch, 2].
    """

    one: Traced
    other: Traced
    weights: Traced

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, rows: np.ndarray) -> "KeysBetween":
        return jax.tree.map(lambda x: x[rows], self)


NoiseKeys = Keys | KeysBetween
"""What each picture of a batch draws its noise by."""


def normal(keys: NoiseKeys, shape: Sequence[int]) -> Images:
    """eps ~ N(0, I), one draw of `shape` = [height, width, channels] per picture's own key."""
    if isinstance(keys, KeysBetween):
        weights = keys.weights.T[:, :, None, None, None]
        return weights[0] * normal(keys.one, shape) + weights[1] * normal(keys.other, shape)
    # In one row: the same numbers, by counters of one dimension, which XLA for CPUs compiles in a
    # third of the time and draws in half.
    row = jax.vmap(lambda key: jax.random.normal(key, (math.prod(shape),), jnp.float32))(keys)
    return row.reshape(len(keys), *shape)


def fold_in(keys: NoiseKeys, data: int | Int32[Array, ""]) -> NoiseKeys:
    """The key of each picture for one more purpose."""
    if isinstance(keys, KeysBetween):
        return KeysBetween(fold_in(keys.one, data), fold_in(keys.other, data), keys.weights)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)
