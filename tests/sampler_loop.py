"""Steps of a sampler in one scan: the loop without a stage around it."""

import jax
import jax.numpy as jnp

from imagen_jax.diffusion import samplers


def advance(sampler, denoise, state, log_snrs, keys, *, first=0, stop=None):
    """Steps `first` to `stop` - 1 of the grid, from a state at lambda = log_snrs[first]."""

    def one(state, index):
        return samplers.take(sampler, denoise, state, log_snrs, keys, index), None

    stop = len(log_snrs) - 1 if stop is None else stop
    return jax.lax.scan(one, state, jnp.arange(first, stop, dtype=jnp.int32))[0]


def sample(sampler, denoise, z, log_snrs, keys):
    """The picture that z at the grid's first time leads to."""
    return samplers.finish(advance(sampler, denoise, samplers.start(sampler, z), log_snrs, keys))
