"""The encoder of T5 and T5 v1.1 (Raffel et al. 2020; Shazeer 2020): token ids to embeddings.

Pre-norm Transformer blocks with RMS norm, relative position biases shared by all blocks,
feed-forward layers with ReLU (T5) or gated GELU (v1.1), no biases elsewhere and no 1/sqrt(d) in
the attention: the initialisation carries it. The residual stream, norms and softmax are float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32

from imagen_jax import ops
from imagen_jax.arrays import TextEmbeddings, TextMask, TokenIds
from imagen_jax.config import T5Config
from imagen_jax.models.blocks import Gather, as_they_are, run_blocks
from imagen_jax.ops.attention import LogitBias


def relative_position_bucket(
    offset: Int32[np.ndarray, " offsets"], num_buckets: int, max_distance: int
) -> Int32[np.ndarray, " offsets"]:
    """Bucket of each `offset` = key position - query position, in [0, num_buckets).

    Half of the buckets are for keys after the query. Of each half, the first half holds one
    distance a bucket; the rest grow logarithmically up to `max_distance`, and the last one
    takes all that is farther (Raffel et al. 2020, section 2.1). Plain float32 NumPy, because
    bucket edges depend on the rounding and have to be those the weights were trained with.
    """
    half = num_buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    scale = np.float32(np.log(max_distance / exact))
    far = exact + (np.log(ratio) / scale * np.float32(half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return (bucket + half * (offset > 0)).astype(np.int32)


class RMSNorm(nnx.Module):
    """y = x / sqrt(mean(x^2) + 1e-6) * scale, over the last axis, in float32."""

    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return ops.rms_norm(x, self.scale[...])


def _linear(inputs: int, outputs: int, std: float, config: T5Config, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=False,
        dtype=jnp.dtype(config.dtype),
        kernel_init=nnx.initializers.normal(std),
        rngs=rngs,
    )


class SelfAttention(nnx.Module):
    """Unscaled multi-head attention: softmax(q k^T + bias) v (Raffel et al. 2020)."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        width, inner = config.d_model, config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.q = _linear(width, inner, (width * config.d_kv) ** -0.5, config, rngs)
        self.k = _linear(width, inner, width**-0.5, config, rngs)
        self.v = _linear(width, inner, width**-0.5, config, rngs)
        self.o = _linear(inner, width, inner**-0.5, config, rngs)

    def __call__(
        self, x: Float[Array, "batch length width"], bias: LogitBias, mask: TextMask
    ) -> Float[Array, "batch length width"]:
        heads = (*x.shape[:2], self.num_heads, -1)
        queries, keys, values = (layer(x).reshape(heads) for layer in (self.q, self.k, self.v))
        return self.o(ops.attend_with_bias(queries, keys, values, bias, mask))


class GatedFeedForward(nnx.Module):
    """wo(gelu(wi_0 x) * wi_1 x), GELU in its tanh form (Shazeer 2020, "GEGLU")."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        width, hidden = config.d_model, config.d_ff
        self.wi_0 = _linear(width, hidden, width**-0.5, config, rngs)
        self.wi_1 = _linear(width, hidden, width**-0.5, config, rngs)
        self.wo = _linear(hidden, width, hidden**-0.5, config, rngs)

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.wo(jax.nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x))


class FeedForward(nnx.Module):
    """wo(relu(wi x)) (Raffel et al. 2020)."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        width, hidden = config.d_model, config.d_ff
        self.wi = _linear(width, hidden, width**-0.5, config, rngs)
        self.wo = _linear(hidden, width, hidden**-0.5, config, rngs)

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.wo(jax.nn.relu(self.wi(x)))


_FEED_FORWARD = {"gated-gelu": GatedFeedForward, "relu": FeedForward}


class T5Block(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(config.d_model)
        self.attention = SelfAttention(config, rngs=rngs)
        self.feed_forward_norm = RMSNorm(config.d_model)
        self.feed_forward = _FEED_FORWARD[config.feed_forward](config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch length width"], bias: LogitBias, mask: TextMask
    ) -> Float[Array, "batch length width"]:
        x = x + self.attention(self.attention_norm(x), bias, mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


class T5Encoder(nnx.Module):
    """Text embeddings of token ids; all of its state is `nnx.Param`, made as float32."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        normal = jax.random.normal
        self.config = config
        self.token_embedding = nnx.Param(normal(rngs.params(), (config.vocab_size, config.d_model)))
        self.relative_bias = nnx.Param(
            normal(rngs.params(), (config.relative_attention_num_buckets, config.num_heads))
            * config.d_model**-0.5
        )
        self.blocks = nnx.List([T5Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.final_norm = RMSNorm(config.d_model)

    def position_bias(self, length: int) -> LogitBias:
        """What attention adds to its logits, [heads, length, length]: relative positions."""
        offsets = np.arange(1 - length, length, dtype=np.int32)
        buckets = relative_position_bucket(
            offsets,
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        bias_of_offset = self.relative_bias[...][buckets].astype(jnp.float32)
        position = jnp.arange(length)
        index = position[None, :] - position[:, None] + (length - 1)
        return bias_of_offset[index].transpose(2, 0, 1)

    def __call__(
        self, token_ids: TokenIds, mask: TextMask, *, gather: Gather = as_they_are
    ) -> TextEmbeddings:
        """Embeddings [batch, length, d_model], float32.

        Args:
            token_ids: [batch, length], each in [0, vocab_size).
            mask: [batch, length], True where a token is real. Padding is never attended to;
                what comes out at its positions is finite and means nothing.
            gather: brings a block's sharded parameters together where the block runs.
        """
        bias = self.position_bias(token_ids.shape[1])
        x = gather(self.token_embedding[...])[token_ids].astype(jnp.float32)
        x = run_blocks(
            self.blocks,
            x,
            [None] * len(self.blocks),
            lambda block, x, _: block(x, bias, mask),
            remat=self.config.remat,
            gather=gather,
        )[-1]
        return self.final_norm(x)
