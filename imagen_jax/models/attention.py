"""Attention of pictures over themselves and over text."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import dataclass
from jaxtyping import Array, Bool, Float

from imagen_jax.arrays import Embedding, Images, TextEmbeddings, TextMask
from imagen_jax.models.blocks import keep
from imagen_jax.models.layers import GroupNorm, linear
from imagen_jax.network_config import Pooling, TextNorm

Heads = Float[Array, "batch _ _ _"]
"""Queries, keys or values: (batch, positions, heads, head width)."""
KeyMask = Bool[Array, "batch keys"]
Attended = Float[Array, "batch queries width"]
OfQueries = Float[Array, "queries width"]
"""Of one head of one picture."""
OfKeys = Float[Array, "keys width"]
HeadMask = Bool[Array, " keys"]

_CHUNK = 256
"""Most queries of all heads at a time, and a power of two."""
_CHUNK_OF_HEAD = 1024
"""Most queries of one head at a time, so that the weights lie in a CPU's cache."""
_LEAST = 32
"""Fewest queries at a time that are worth a loop."""

_written = jax.lax.optimization_barrier


@dataclass
class TextState:
    """What a U-Net needs of a prompt; it depends on no noise level, so it is made once.

    Attributes:
        pooled: attention-pooled text, added to the time embedding.
        keys_values: one (keys, values) pair per attention, in the order in which they run.
        mask: True where a token is real; at least one per row.
    """

    pooled: Embedding
    keys_values: tuple[tuple[Heads, Heads], ...]
    mask: TextMask


def attend(queries: Heads, keys: Heads, values: Heads, mask: KeyMask) -> Attended:
    """softmax(q k^T / sqrt(d)) v, the softmax in float32; masked keys get no weight.

    Many queries are taken in parts, and the backward pass computes the weights of each again:
    kept, they would be most of a training step's memory. A number of queries with few factors of
    two is not divided.
    """
    if queries.shape[1] <= _CHUNK or jax.device_count() > 1:
        return _in_chunks(queries, keys, values, mask)
    return jax.lax.platform_dependent(
        queries, keys, values, mask, cpu=_head_by_head, default=_in_chunks
    )


def _queries_at_a_time(count: int, most: int) -> int:
    """All of `count`, or a power of two where they are more than `most` and it divides them."""
    chunk = math.gcd(count, most)
    return count if count <= most or chunk < _LEAST else chunk


def _in_chunks(queries: Heads, keys: Heads, values: Heads, mask: KeyMask) -> Attended:
    """All heads of all pictures at once, some of the queries at a time."""
    batch, count, *heads = queries.shape
    # A power of two, as a number of devices is: each device has as many queries of every chunk.
    if (chunk := _queries_at_a_time(count, _CHUNK)) == count:
        return _attend(queries, keys, values, mask)
    # Every n-th query, so that each device keeps the rows of the picture that it has.
    parts = jnp.moveaxis(queries.reshape(batch, chunk, count // chunk, *heads), 2, 0)
    run = jax.checkpoint(lambda part: _attend(part, keys, values, mask), prevent_cse=False)
    return jnp.moveaxis(jax.lax.map(run, parts), 0, 2).reshape(batch, count, -1)


def _attend(queries: Heads, keys: Heads, values: Heads, mask: KeyMask) -> Attended:
    logits = jnp.einsum("BQNH,BKNH->BNQK", queries, keys) * queries.shape[-1] ** -0.5
    logits = jnp.where(mask[:, None, None, :], logits.astype(jnp.float32), -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    out = jnp.einsum("BNQK,BKNH->BQNH", weights, values)
    return out.reshape(*out.shape[:2], -1)


def _head_by_head(queries: Heads, keys: Heads, values: Heads, mask: KeyMask) -> Attended:
    """One head of one picture at a time, whose weights lie in a CPU's cache.

    Not for several devices: each would compute all of it.
    """
    batch, count, heads, width = queries.shape
    chunk = _queries_at_a_time(count, _CHUNK_OF_HEAD)
    apart = lambda x: x.swapaxes(1, 2).reshape(batch * heads, -1, width)  # noqa: E731

    def head(own: tuple[jax.Array, ...]) -> jax.Array:
        queries, keys, values, mask = own
        parts = queries.reshape(-1, chunk, width)
        return jax.lax.map(lambda part: _attend_head(part, keys, values, mask), parts)

    out = jax.lax.map(head, (apart(queries), apart(keys), apart(values), mask.repeat(heads, 0)))
    return out.reshape(batch, heads, count, width).swapaxes(1, 2).reshape(batch, count, -1)


@jax.custom_vjp
def _attend_head(queries: OfQueries, keys: OfKeys, values: OfKeys, mask: HeadMask) -> OfQueries:
    """As `_attend`, but divided at last: of the results there are fewer than of the weights."""
    return _attend_head_forward(queries, keys, values, mask)[0]


def _attend_head_forward(
    queries: OfQueries, keys: OfKeys, values: OfKeys, mask: HeadMask
) -> tuple[OfQueries, tuple[jax.Array, ...]]:
    """Also keeps log sum exp of each query's logits, from which the weights come again."""
    logits = jnp.where(mask, _product(queries * queries.shape[-1] ** -0.5, keys.T), -1e30)
    largest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = (_product(weights, values) / total).astype(values.dtype)
    return out, (queries, keys, values, mask, out, (largest + jnp.log(total))[:, 0])


def _attend_head_backward(
    kept: tuple[jax.Array, ...], gradient: OfQueries
) -> tuple[OfQueries, OfKeys, OfKeys, None]:
    """dV = P^T dO, dS = P * (dO V^T - rowsum(dO * O)), dQ = dS K, dK = dS^T Q.

    P = exp(S - log sum exp) are the weights (Dao et al. 2022, FlashAttention, appendix B.2).
    P and dS are computed as keys x queries: transposed on the left of a product, as they were
    otherwise, XLA's CPU compiler has slower code for them. The barriers keep it from turning a
    product back to that, and from computing one again for each of its readers.
    """
    queries, keys, values, mask, out, log_sum_exp = kept
    scale = queries.shape[-1] ** -0.5
    scaled = queries * scale
    row_sum = jnp.sum(gradient.astype(jnp.float32) * out, axis=-1)
    keys_t, scaled_t, gradient_t = _written((keys.T, scaled.T, gradient.T))
    logits = jnp.where(mask[:, None], _product(keys, scaled_t), -1e30)
    weights = jnp.exp(logits - log_sum_exp)
    of_logits = weights * (_written(_product(values, gradient_t)) - row_sum)
    of_queries = scale * _written(_product(keys_t, of_logits)).T
    return (
        of_queries.astype(queries.dtype),
        _product(of_logits, scaled).astype(keys.dtype),
        _product(weights, gradient).astype(values.dtype),
        None,
    )


_attend_head.defvjp(_attend_head_forward, _attend_head_backward)


def _product(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


class ImageAttention(nnx.Module):
    """Residual attention of a picture over text and, with `self_attention`, over itself.

    Text keys and values, from normalised embeddings, are concatenated to the picture's own
    (paper, section 2.5 and appendix D.3.1); without `self_attention` only the text is
    attended, which lets the network run on any size.
    """

    def __init__(
        self, channels: int, *, text_width: int | None, num_heads: int, head_dim: int,
        self_attention: bool, norm_groups: int = 32, text_norm: TextNorm = "layer",
        dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.num_heads = num_heads
        inner = num_heads * head_dim
        self.norm = GroupNorm(channels, groups=norm_groups, rngs=rngs)
        self.query = linear(channels, inner, dtype=dtype, rngs=rngs)
        self.key_value = (
            linear(channels, 2 * inner, dtype=dtype, rngs=rngs) if self_attention else None
        )
        self.text_norm = (
            nnx.LayerNorm(text_width, rngs=rngs)
            if text_norm == "layer"
            else GroupNorm(text_width, rngs=rngs)
        )
        self.text_key_value = linear(text_width, 2 * inner, dtype=dtype, rngs=rngs)
        self.out = linear(inner, channels, zero=True, dtype=dtype, rngs=rngs)

    def text_keys_values(self, text: TextEmbeddings) -> tuple[Heads, Heads]:
        # Tokens as the rows of a picture of width 1, which a group normalisation takes.
        normed = self.text_norm(text[:, :, None])[:, :, 0]
        return self._heads(self.text_key_value(normed))

    def __call__(self, x: Images, text_keys_values: tuple[Heads, Heads], mask: TextMask) -> Images:
        batch, height, width, channels = x.shape
        positions = self.norm(x).reshape(batch, height * width, channels)
        (queries,) = self._heads(self.query(positions))
        keys, values = text_keys_values
        if self.key_value is not None:
            own_keys, own_values = self._heads(self.key_value(positions))
            keys = jnp.concatenate([keys, own_keys], axis=1)
            values = jnp.concatenate([values, own_values], axis=1)
            mask = jnp.concatenate([mask, jnp.ones(positions.shape[:2], bool)], axis=1)
        attended = keep(attend(queries, keys, values, mask))
        return x + self.out(attended).reshape(x.shape)

    def _heads(self, x: Float[Array, "batch positions width"]) -> tuple[Heads, ...]:
        """Splits queries, or keys beside values, into heads."""
        parts = x.shape[-1] // self.query.out_features
        return tuple(
            part.reshape(*part.shape[:2], self.num_heads, -1)
            for part in jnp.split(x, parts, axis=-1)
        )


class AttentionPooling(nnx.Module):
    """Text -> one vector: the mean token attends over all tokens (paper, section 2.5).

    With `kind` token the query is the mean token plus a learned vector, is attended to beside
    the tokens, and the vector that comes out is normalised.
    """

    def __init__(
        self, text_width: int, embedding: int, *, head_dim: int, kind: Pooling = "mean",
        dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.num_heads = max(text_width // head_dim, 1)
        inner = self.num_heads * head_dim
        epsilon = {"mean": 1e-6, "token": 1e-5}[kind]
        self.norm = nnx.LayerNorm(text_width, epsilon=epsilon, rngs=rngs)
        self.token = nnx.Param(jnp.zeros(text_width)) if kind == "token" else None
        self.norm_out = (
            nnx.LayerNorm(embedding, epsilon=epsilon, rngs=rngs) if kind == "token" else None
        )
        self.query = linear(text_width, inner, dtype=dtype, rngs=rngs)
        self.key_value = linear(text_width, 2 * inner, dtype=dtype, rngs=rngs)
        self.out = linear(inner, embedding, dtype=dtype, rngs=rngs)

    def __call__(self, text: TextEmbeddings, mask: TextMask) -> Embedding:
        text = self.norm(text)
        query = jnp.mean(text, axis=1, keepdims=True, where=mask[:, :, None])
        if self.token is not None:
            query = query + self.token[...][None, None]
            text = jnp.concatenate([query, text], axis=1)
            mask = jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1)
        keys, values = jnp.split(self.key_value(text), 2, axis=-1)
        split = lambda x: x.reshape(*x.shape[:2], self.num_heads, -1)  # noqa: E731
        out = attend(split(self.query(query)), split(keys), split(values), mask)
        out = self.out(out[:, 0])
        return out if self.norm_out is None else self.norm_out(out)
