"""Attention of queries over keys, in plain JAX."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Heads = Float[Array, "batch _ _ _"]
"""Queries, keys or values: (batch, positions, heads, head width)."""
KeyMask = Bool[Array, "batch keys"]
Attended = Float[Array, "batch queries width"]
"""The heads beside one another."""
Weights = Float[Array, "batch heads queries keys"]
LogitBias = Float[Array, "heads queries keys"]

CHUNK = 256
"""Most queries of all heads at a time, and a power of two."""
_LEAST = 32
"""Fewest queries at a time that are worth a loop."""


def attend(queries: Heads, keys: Heads, values: Heads, mask: KeyMask) -> Attended:
    """softmax(q k^T / sqrt(d)) v, the softmax in float32; masked keys get no weight.

    Many queries are taken in parts, and the backward pass computes the weights of each again:
    kept, they would be most of a training step's memory. A number of queries with few factors of
    two is not divided.
    """
    batch, count, *heads = queries.shape
    # A power of two, as a number of devices is: each device has as many queries of every chunk.
    if (chunk := queries_at_a_time(count, CHUNK)) == count:
        return _attend(queries, keys, values, mask)
    # Every n-th query, so that each device keeps the rows of the picture that it has.
    parts = jnp.moveaxis(queries.reshape(batch, chunk, count // chunk, *heads), 2, 0)
    run = jax.checkpoint(lambda part: _attend(part, keys, values, mask), prevent_cse=False)
    return jnp.moveaxis(jax.lax.map(run, parts), 0, 2).reshape(batch, count, -1)


def queries_at_a_time(count: int, most: int) -> int:
    """All of `count`, or a power of two where they are more than `most` and it divides them."""
    chunk = math.gcd(count, most)
    return count if count <= most or chunk < _LEAST else chunk


def _attend(queries: Heads, keys: Heads, values: Heads, mask: KeyMask) -> Attended:
    out = jnp.einsum(
        "BNQK,BKNH->BQNH", attention_weights(queries, keys, mask).astype(values.dtype), values
    )
    return out.reshape(*out.shape[:2], -1)


def attention_weights(queries: Heads, keys: Heads, mask: KeyMask) -> Weights:
    """softmax(q k^T / sqrt(d)) in float32, of all queries at once; q k^T is in the queries' dtype,
    of which bfloat16 spares half of what is written."""
    logits = jnp.einsum("BQNH,BKNH->BNQK", queries, keys) * queries.shape[-1] ** -0.5
    logits = jnp.where(mask[:, None, None, :], logits.astype(jnp.float32), -1e30)
    return jax.nn.softmax(logits, axis=-1)


def attend_with_bias(
    queries: Heads, keys: Heads, values: Heads, bias: LogitBias, mask: KeyMask
) -> Attended:
    """softmax(q k^T + bias) v, T5's (Raffel et al. 2020): not scaled, the softmax in float32."""
    logits = jnp.einsum("BQNH,BKNH->BNQK", queries, keys, preferred_element_type=jnp.float32)
    logits = logits + bias[None]
    # The lowest finite value and not -inf: a row with no real key is then a mean, not NaN.
    logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    out = jnp.einsum("BNQK,BKNH->BQNH", weights, values)
    return out.reshape(*out.shape[:2], -1)
