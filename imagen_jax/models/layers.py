"""Layers that both U-Nets are built from."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from imagen_jax.arrays import AugLevel, Embedding, Features, Images, LogSNR
from imagen_jax.models.blocks import keep


def conv(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1,
    zero: bool = False, dtype: str, rngs: nnx.Rngs,
) -> nnx.Conv:  # fmt: skip
    """A same-padded convolution; `zero` starts it as the zero map, as the last of a residual."""
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    return nnx.Conv(
        in_channels, out_channels, (kernel, kernel), strides=stride, padding="SAME",
        kernel_init=init, dtype=dtype, rngs=rngs,
    )  # fmt: skip


def linear(
    in_features: int, out_features: int, *, bias: bool = True, zero: bool = False,
    dtype: str, rngs: nnx.Rngs,
) -> nnx.Linear:  # fmt: skip
    """A dense layer; `zero` starts it as the zero map."""
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    return nnx.Linear(
        in_features, out_features, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs
    )


def broadcast_to_image(x: Float[Array, "batch channels"]) -> Float[Array, "batch 1 1 channels"]:
    return x[:, None, None, :]


def space_to_depth(x: Features, patch: int) -> Features:
    """(B, H, W, C) -> (B, H/p, W/p, p*p*C)."""
    if patch == 1:
        return x
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: Features, patch: int) -> Features:
    """(B, H, W, p*p*C) -> (B, p*H, p*W, C), the inverse of `space_to_depth`."""
    if patch == 1:
        return x
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, c // patch**2)


def downsample(x: Features) -> Features:
    """Mean over 2x2 squares."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample(x: Features) -> Features:
    """Nearest neighbour, twice the side."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def with_low_res(z: Features, low_res: Features | None) -> Features:
    """z with the low-resolution picture, brought to its size bilinearly, on the channels."""
    if low_res is None:
        return z
    low_res = jax.image.resize(low_res, (*z.shape[:3], low_res.shape[3]), "bilinear")
    return jnp.concatenate([z, low_res.astype(z.dtype)], axis=-1)


Scalars = Float[Array, " batch"]


class GroupNorm(nnx.Module):
    """Group normalisation whose statistics are float32 (Wu & He 2018).

    Sums over positions come first and groups are combined on the small (batch, channels)
    arrays: one pass over the picture instead of several. There are gcd(groups, channels) groups.
    A group of one channel forgets that channel's mean, and with it the colour of flat areas.
    """

    def __init__(self, channels: int, *, groups: int = 32, epsilon: float = 1e-5, rngs: nnx.Rngs):
        del rngs  # starts as the identity
        self.groups = math.gcd(groups, channels)
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(
        self,
        x: Images,
        scale: Float[Array, "batch channels"] | float = 0.0,
        shift: Float[Array, "batch channels"] | float = 0.0,
    ) -> Images:
        """GN(x) * (1 + scale) + shift, in x's dtype."""
        x32 = x.astype(jnp.float32)
        mean, square = x32.mean((1, 2)), jnp.square(x32).mean((1, 2))
        mean, square = self._over_groups(mean), self._over_groups(square)
        inverse = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + self.epsilon)
        multiply = inverse * self.scale[...] * (1 + scale)
        add = (self.bias[...] - mean * inverse * self.scale[...]) * (1 + scale) + shift
        return (x32 * broadcast_to_image(multiply) + broadcast_to_image(add)).astype(x.dtype)

    def _over_groups(self, x: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        grouped = x.reshape(x.shape[0], self.groups, -1).mean(-1, keepdims=True)
        return jnp.broadcast_to(grouped, (*grouped.shape[:2], x.shape[1] // self.groups)).reshape(
            x.shape
        )


def sinusoid(x: Scalars, width: int) -> Embedding:
    """sin and cos of 1000 x at `width`/2 frequencies from 1 to 1e-4; x in [0, 1]."""
    frequencies = jnp.exp(-math.log(1e4) * jnp.arange(width // 2) / (width // 2 - 1))
    angles = 1000.0 * x.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ScalarEmbedding(nnx.Module):
    """A number in [0, 1] per picture -> sinusoid -> dense, swish, dense."""

    def __init__(self, width: int, embedding: int, *, dtype: str, rngs: nnx.Rngs):
        self.width = width
        self.dense_1 = linear(width, embedding, dtype=dtype, rngs=rngs)
        self.dense_2 = linear(embedding, embedding, dtype=dtype, rngs=rngs)

    def __call__(self, x: Scalars) -> Embedding:
        return self.dense_2(nnx.silu(self.dense_1(sinusoid(x, self.width))))


class Conditioning(nnx.Module):
    """Time + pooled text (+ aug_level of a super-resolution stage), as one embedding.

    The paper does not say how log-SNR or aug_level enter. Log-SNR is mapped to
    (2/pi) arctan(exp(-lambda/2)), which is t itself under the cosine schedule; aug_level has
    an embedding of its own that is added (Ho et al. 2021, Cascaded Diffusion Models).
    """

    def __init__(self, width: int, embedding: int, *, augmented: bool, dtype: str, rngs: nnx.Rngs):
        self.time = ScalarEmbedding(width, embedding, dtype=dtype, rngs=rngs)
        self.aug_level = (
            ScalarEmbedding(width, embedding, dtype=dtype, rngs=rngs) if augmented else None
        )

    def __call__(
        self, log_snr: LogSNR, pooled_text: Embedding, aug_level: AugLevel | None
    ) -> Embedding:
        embedding = self.time(2 / jnp.pi * jnp.arctan(jnp.exp(-log_snr / 2))) + pooled_text
        if self.aug_level is not None:
            embedding = embedding + self.aug_level(aug_level)
        return embedding


class ResBlock(nnx.Module):
    """GroupNorm-swish-conv twice with scale-shift from the embedding, plus the input.

    With `resample` "down" or "up" both branches change size between the first norm and the
    first convolution: the "biggan" block of ADM (Dhariwal & Nichol 2021) that the paper's
    base uses. Without, it is the paper's ResNetBlock (figure A.27), where CombineEmbs is
    the second norm's scale and shift.
    """

    def __init__(
        self, in_channels: int, out_channels: int, embedding: int, *,
        resample: str | None = None, norm_groups: int = 32, dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.resample = {None: None, "down": downsample, "up": upsample}[resample]
        self.norm_1 = GroupNorm(in_channels, groups=norm_groups, rngs=rngs)
        self.conv_1 = conv(in_channels, out_channels, dtype=dtype, rngs=rngs)
        self.embedding = linear(embedding, 2 * out_channels, dtype=dtype, rngs=rngs)
        self.norm_2 = GroupNorm(out_channels, groups=norm_groups, rngs=rngs)
        self.conv_2 = conv(out_channels, out_channels, zero=True, dtype=dtype, rngs=rngs)
        self.shortcut = (
            conv(in_channels, out_channels, kernel=1, dtype=dtype, rngs=rngs)
            if in_channels != out_channels
            else None
        )

    def __call__(self, x: Features, embedding: Embedding) -> Features:
        h = nnx.silu(self.norm_1(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = keep(self.conv_1(h))
        scale, shift = jnp.split(self.embedding(nnx.silu(embedding)), 2, axis=-1)
        h = nnx.silu(self.norm_2(h, scale, shift))
        h = self.conv_2(h)
        return h + (x if self.shortcut is None else self.shortcut(x))
