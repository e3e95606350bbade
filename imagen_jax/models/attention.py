"""Attention of pictures over themselves and over text."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx
from flax.struct import dataclass
from jaxtyping import Array, Float

from imagen_jax import ops
from imagen_jax.arrays import Embedding, Images, TextEmbeddings, TextMask
from imagen_jax.config.choices import Pooling, TextNorm
from imagen_jax.models.blocks import keep
from imagen_jax.models.layers import GroupNorm, linear
from imagen_jax.ops.attention import Heads, attention_weights

KeysValues = tuple[Heads, Heads]

WordWeights = Float[Array, "batch _ _ length"]
"""The weight that each place (batch, height, width) of a picture gives each token of its text, as
a mean over the heads. What is left of 1 goes to the picture itself."""
_RECORD: contextvars.ContextVar[list[WordWeights] | None] = contextvars.ContextVar(
    "record", default=None
)


@contextlib.contextmanager
def recorded() -> Iterator[list[WordWeights]]:
    """A list that takes the word weights of every attention that is traced within.

    What is traced must be without remat and scans, which values cannot leave.
    """
    weights: list[WordWeights] = []
    token = _RECORD.set(weights)
    try:
        yield weights
    finally:
        _RECORD.reset(token)


@dataclass
class TextState:
    """What a U-Net needs of a prompt; it depends on no noise level, so it is made once.

    A network without text has None in all these places.

    Attributes:
        pooled: attention-pooled text, added to the time embedding.
        keys_values: one (keys, values) pair per attention, in the order in which they run.
        mask: True where a token is real; at least one per row.
    """

    pooled: Embedding | None
    keys_values: tuple[KeysValues | None, ...]
    mask: TextMask | None


class ImageAttention(nnx.Module):
    """Residual attention of a picture over text and, with `self_attention`, over itself.

    Text keys and values, from normalised embeddings, are concatenated to the picture's own
    (paper, section 2.5 and appendix D.3.1); without `self_attention` only the text is
    attended, which lets the network run on any size. Where `text_width` is None there is no text.
    """

    def __init__(
        self,
        channels: int,
        *,
        text_width: int | None,
        num_heads: int,
        head_dim: int,
        self_attention: bool,
        norm_groups: int = 32,
        text_norm: TextNorm = "layer",
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.num_heads = num_heads
        inner = num_heads * head_dim
        self.norm = GroupNorm(channels, groups=norm_groups, rngs=rngs)
        self.query = linear(channels, inner, dtype=dtype, rngs=rngs)
        self.key_value = (
            linear(channels, 2 * inner, dtype=dtype, rngs=rngs) if self_attention else None
        )
        if text_width is not None:
            norm = nnx.LayerNorm if text_norm == "layer" else GroupNorm
            self.text_norm = norm(text_width, rngs=rngs)
            self.text_key_value = linear(text_width, 2 * inner, dtype=dtype, rngs=rngs)
        self.out = linear(inner, channels, zero=True, dtype=dtype, rngs=rngs)

    def text_keys_values(self, text: TextEmbeddings) -> KeysValues:
        # Tokens as the rows of a picture of width 1, which a group normalisation takes.
        normed = self.text_norm(text[:, :, None])[:, :, 0]
        return self._heads(self.text_key_value(normed))

    def __call__(
        self, x: Images, text_keys_values: KeysValues | None, mask: TextMask | None
    ) -> Images:
        """`text_keys_values` and `mask` are None for a network without text."""
        batch, height, width, channels = x.shape
        positions = self.norm(x).reshape(batch, height * width, channels)
        (queries,) = self._heads(self.query(positions))
        read = [] if text_keys_values is None else [(*text_keys_values, mask)]
        if self.key_value is not None:
            own = self._heads(self.key_value(positions))
            read.append((*own, jnp.ones(positions.shape[:2], bool)))
        keys, values, mask = (jnp.concatenate(parts, axis=1) for parts in zip(*read, strict=True))
        if (record := _RECORD.get()) is not None and text_keys_values is not None:
            weights = attention_weights(queries, keys, mask)[..., : text_keys_values[0].shape[1]]
            record.append(weights.mean(1).reshape(batch, height, width, -1))
        attended = keep(ops.attend(queries, keys, values, mask))
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
        self,
        text_width: int,
        embedding: int,
        *,
        head_dim: int,
        kind: Pooling = "mean",
        dtype: str,
        rngs: nnx.Rngs,
    ):
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
        out = ops.attend(split(self.query(query)), split(keys), split(values), mask)
        out = self.out(out[:, 0])
        if self.norm_out is None:
            return out
        # In float32 as it normalises; oneDNN, if it is asked to, cannot take it from bfloat16.
        return self.norm_out(ops.written_once(out.astype(jnp.float32)))
