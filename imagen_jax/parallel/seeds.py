"""Random keys of seeds: the same whatever JAX's variables say, and on any number of devices."""

import jax
from jaxtyping import Array, Key

_KIND = "threefry2x32"


def key_of(seed: int) -> Key[Array, ""]:
    """The key that all that is random of a seed comes from.

    The kinds that JAX_DEFAULT_PRNG_IMPL may name besides draw otherwise on each backend. With
    JAX_THREEFRY_PARTITIONABLE=0 draws would differ from one sharding to the next; this sets JAX's
    default for the process.
    """
    jax.config.update("jax_threefry_partitionable", True)
    return jax.random.key(seed, impl=_KIND)
