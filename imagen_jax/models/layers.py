"""Layers that both U-Nets are built from."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from imagen_jax import ops
from imagen_jax.arrays import Embedding, Features, Images, NoiseLevel
from imagen_jax.config.choices import Activation, EmbeddingActivation, TimeInput
from imagen_jax.models.blocks import keep
from imagen_jax.ops.convolution import Kernel
from imagen_jax.ops.resampling import Resample


def exact_gelu(x: jax.Array) -> jax.Array:
    """x Phi(x) = x / 2 (1 + erf(x / sqrt(2))), computed in float32.

    As PyTorch computes it. `jax.nn.gelu` takes erfc, which XLA is slow at on CPUs.
    """
    x32 = x.astype(jnp.float32)
    return (0.5 * x32 * (1 + jax.lax.erf(x32 * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "swish": nnx.silu,
    "gelu": exact_gelu,
}


class Conv(nnx.Conv):
    """`nnx.Conv`, same-padded, as the package's own operation."""

    def __call__(self, x: Features) -> Features:
        x, kernel, bias = self._promoted(x)
        return ops.convolve(x, kernel, self.strides) + bias

    def of_upsampled(self, x: Features) -> Features:
        """`self(upsample(x))`, of stride 1 and 3x3 taps."""
        x, kernel, bias = self._promoted(x)
        return ops.convolve_upsampled(x, kernel) + bias

    def of_downsampled(self, x: Features) -> Features:
        """`self(downsample(x))`, of stride 1."""
        x, kernel, bias = self._promoted(x)
        return ops.convolve_downsampled(x, kernel) + bias

    def _promoted(self, x: Features) -> tuple[Features, Kernel, Float[Array, " outputs"]]:
        return self.promote_dtype((x, self.kernel[...], self.bias[...]), dtype=self.dtype)


def conv(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    zero: bool = False,
    dtype: str,
    rngs: nnx.Rngs,
) -> Conv:
    """A same-padded convolution; `zero` starts it as the zero map, as the last of a residual."""
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    return Conv(
        in_channels,
        out_channels,
        (kernel, kernel),
        strides=stride,
        kernel_init=init,
        dtype=dtype,
        rngs=rngs,
    )


def linear(
    in_features: int,
    out_features: int,
    *,
    bias: bool = True,
    zero: bool = False,
    dtype: str,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """A dense layer; `zero` starts it as the zero map."""
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    return nnx.Linear(
        in_features, out_features, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs
    )


def at_size_of(z: Float[Array, "_ _ _ _"], pictures: Features) -> Features:
    """Pictures of any size at that of z, bilinearly, in its dtype; they may be more than z has."""
    size = (len(pictures), *z.shape[1:3], pictures.shape[3])
    return jax.image.resize(pictures, size, "bilinear").astype(z.dtype)


Scalars = Float[Array, " batch"]


class GroupNorm(nnx.Module):
    """Group normalisation whose statistics are float32 (Wu & He 2018).

    There are gcd(groups, channels) groups. A group of one channel forgets that channel's mean, and
    with it the colour of flat areas.
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
        activation: Callable[[jax.Array], jax.Array] | None = None,
    ) -> Images:
        """activation(GN(x) * (1 + scale) + shift), in x's dtype."""
        return ops.group_norm(
            x,
            self.scale[...],
            self.bias[...],
            scale,
            shift,
            groups=self.groups,
            epsilon=self.epsilon,
            activation=activation,
        )


def sinusoid(x: Scalars, width: int) -> Embedding:
    """sin and cos of 1000 x at `width`/2 frequencies from 1 to 1e-4; x in [0, 1]."""
    frequencies = jnp.exp(-math.log(1e4) * jnp.arange(width // 2) / (width // 2 - 1))
    angles = 1000.0 * x.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def step_sinusoid(step: Scalars, width: int) -> Embedding:
    """cos and sin of a step's number at `width`/2 frequencies from 1 down, 1e-4 the next one."""
    frequencies = jnp.exp(-math.log(1e4) * jnp.arange(width // 2) / (width // 2))
    angles = step.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ScalarEmbedding(nnx.Module):
    """A number per picture -> sinusoid -> dense, activation, dense.

    The number is in [0, 1], or with `time_input` step that of a step. `zero` starts it as the zero
    map.
    """

    def __init__(
        self,
        width: int,
        embedding: int,
        *,
        time_input: TimeInput = "log_snr",
        activation: Activation = "swish",
        zero: bool = False,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.width = width
        self.sinusoid = {"log_snr": sinusoid, "step": step_sinusoid}[time_input]
        self.activation = ACTIVATIONS[activation]
        self.dense_1 = linear(width, embedding, dtype=dtype, rngs=rngs)
        self.dense_2 = linear(embedding, embedding, zero=zero, dtype=dtype, rngs=rngs)

    def __call__(self, x: Scalars) -> Embedding:
        return self.dense_2(self.activation(self.dense_1(self.sinusoid(x, self.width))))


class Conditioning(nnx.Module):
    """Time + pooled text (+ aug_level of a super-resolution stage), as one embedding.

    The paper does not say how log-SNR or aug_level enter. Log-SNR is mapped to
    (2/pi) arctan(exp(-lambda/2)), which is t itself under the cosine schedule; aug_level has
    an embedding of its own that is added (Ho et al. 2021, Cascaded Diffusion Models). With
    `time_input` step both are numbers of steps of a chain.

    Args:
        levels: names of the noise levels beside that of z, such as "aug_level".
    """

    def __init__(
        self,
        width: int,
        embedding: int,
        *,
        levels: Sequence[str],
        time_input: TimeInput = "log_snr",
        activation: Activation = "swish",
        dtype: str,
        rngs: nnx.Rngs,
    ):
        kwargs = {"time_input": time_input, "activation": activation, "dtype": dtype, "rngs": rngs}
        self.reads_steps = time_input == "step"
        self.time = ScalarEmbedding(width, embedding, **kwargs)
        self.levels = tuple(levels)
        for name in levels:
            setattr(self, name, ScalarEmbedding(width, embedding, **kwargs))

    def __call__(
        self,
        noise_level: NoiseLevel,
        pooled_text: Embedding | None,
        numbers: Mapping[str, NoiseLevel],
    ) -> Embedding:
        if not self.reads_steps:
            noise_level = 2 / jnp.pi * jnp.arctan(jnp.exp(-noise_level / 2))
        embedding = self.time(noise_level)
        if pooled_text is not None:
            embedding = embedding + pooled_text
        for name in self.levels:
            embedding = embedding + getattr(self, name)(numbers[name])
        return embedding


class ResBlock(nnx.Module):
    """GroupNorm-activation-conv twice with scale-shift from the embedding, plus the input.

    With `resample` "down" or "up" both branches change size between the first norm and the
    first convolution: the "biggan" block of ADM (Dhariwal & Nichol 2021) that the paper's
    base uses. Without, it is the paper's ResNetBlock (figure A.27), where CombineEmbs (figures A.28
    and A.29) is the second norm's scale and shift, and the 1x1 convolution beside a block is one
    where widths differ alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        *,
        resample: Resample | None = None,
        norm_groups: int = 32,
        activation: Activation = "swish",
        embedding_activation: EmbeddingActivation = "per_block",
        residual_scale: float = 1.0,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.activation = ACTIVATIONS[activation]
        self.activates_embedding = embedding_activation == "per_block"
        self.residual_scale = residual_scale
        self.resample = resample
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
        h = self.norm_1(x, activation=self.activation)
        if self.resample == "up":
            x, h = ops.upsample(x), self.conv_1.of_upsampled(h)
        elif self.resample == "down":
            x, h = ops.downsample(x), self.conv_1.of_downsampled(h)
        else:
            h = self.conv_1(h)
        h = keep(h)
        if self.activates_embedding:
            embedding = self.activation(embedding)
        scale, shift = jnp.split(self.embedding(embedding), 2, axis=-1)
        h = self.norm_2(h, scale, shift, self.activation)
        h = self.conv_2(h) + (x if self.shortcut is None else self.shortcut(x))
        return h if self.residual_scale == 1 else h * self.residual_scale
