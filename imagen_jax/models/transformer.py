"""What CLIP's towers and DINOv2 are built from: pre-norm blocks, and pictures cut into patches."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from imagen_jax import ops
from imagen_jax.arrays import Images, TextMask
from imagen_jax.config.choices import GeluKind
from imagen_jax.config.encoders import PatchesConfig, TransformerConfig
from imagen_jax.models.blocks import Gather, run_blocks
from imagen_jax.models.layers import exact_gelu, linear
from imagen_jax.ops.attention import LogitBias

Tokens = Float[Array, "batch length width"]
PatchTokens = Float[Array, "batch patches features"]


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), with which OpenAI trained CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[GeluKind, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": exact_gelu,
}


def layer_norm(width: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in float32."""
    return nnx.LayerNorm(
        width, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
    )


class SelfAttention(nnx.Module):
    """softmax(q k^T / sqrt(d) + bias) v, of several heads; all four layers have biases."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        layer = functools.partial(linear, config.width, config.width, dtype=config.dtype, rngs=rngs)
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.out = layer(), layer(), layer(), layer()

    def __call__(self, x: Tokens, bias: LogitBias | None, mask: TextMask) -> Tokens:
        heads = (*x.shape[:2], self.num_heads, -1)
        queries, keys, values = (layer(x).reshape(heads) for layer in (self.q, self.k, self.v))
        if bias is None:
            return self.out(ops.attend(queries, keys, values, mask))
        queries = queries * queries.shape[-1] ** -0.5
        return self.out(ops.attend_with_bias(queries, keys, values, bias, mask))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + dense_2(activation(dense_1(norm(x)))).

    With `scaled` what is added is first multiplied by a learned vector (Touvron et al. 2021).
    """

    def __init__(
        self, config: TransformerConfig, *, epsilon: float, scaled: bool = False, rngs: nnx.Rngs
    ) -> None:
        self.norm_1 = layer_norm(config.width, epsilon, rngs)
        self.attention = SelfAttention(config, rngs=rngs)
        self.norm_2 = layer_norm(config.width, epsilon, rngs)
        self.dense_1 = linear(config.width, config.hidden, dtype=config.dtype, rngs=rngs)
        self.dense_2 = linear(config.hidden, config.width, dtype=config.dtype, rngs=rngs)
        self.activation = _ACTIVATIONS[config.activation]
        self.scale_1 = nnx.Param(jnp.ones(config.width)) if scaled else None
        self.scale_2 = nnx.Param(jnp.ones(config.width)) if scaled else None

    def __call__(self, x: Tokens, bias: LogitBias | None, mask: TextMask) -> Tokens:
        attended = self.attention(self.norm_1(x), bias, mask)
        x = x + (attended if self.scale_1 is None else attended * self.scale_1[...])
        widened = self.activation(self.dense_1(self.norm_2(x)))
        narrowed = self.dense_2(widened)
        return x + (narrowed if self.scale_2 is None else narrowed * self.scale_2[...])


def run_transformer(
    blocks: Sequence[Block],
    x: Tokens,
    bias: LogitBias | None,
    mask: TextMask,
    config: TransformerConfig,
    gather: Gather,
) -> list[Tokens]:
    """x, and what each block made of what the one before it gave."""
    run = lambda block, x, _: block(x, bias, mask)  # noqa: E731
    nothing = [None] * len(blocks)
    return [x, *run_blocks(blocks, x, nothing, run, remat=config.remat, gather=gather)]


class PatchEmbedding(nnx.Module):
    """A dense layer over each patch of a picture, patches from left to right and downwards.

    Its kernel is that of the convolution whose stride is its size, as (columns, rows, channels,
    outputs): PyTorch's order from behind.
    """

    def __init__(self, config: PatchesConfig, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.config = config
        shape = (config.patch, config.patch, 3, config.width)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(config.width)) if bias else None

    def __call__(self, pictures: Images) -> PatchTokens:
        patch, dtype = self.config.patch, jnp.dtype(self.config.dtype)
        batch, rows, columns = pictures.shape[0], *(n // patch for n in pictures.shape[1:3])
        pictures = pictures[:, : rows * patch, : columns * patch].astype(dtype)
        cut = pictures.reshape(batch, rows, patch, columns, patch, 3)
        cut = cut.transpose(0, 1, 3, 4, 2, 5).reshape(batch, rows * columns, -1)
        x = cut @ self.kernel[...].astype(dtype).reshape(-1, self.config.width)
        x = x.astype(jnp.float32)
        return x if self.bias is None else x + self.bias[...]
