"""The Inception-v3 of FID (Szegedy et al. 2015; Heusel et al. 2017): pictures to 2048 features.

It is the network of TensorFlow's file of 2015-12-05 as pytorch-fid has it, which differs from
torchvision's: average pooling does not count what lies beyond the border, and the last block pools
by the maximum. Modules have torchvision's names, under which the weights are published.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from imagen_jax.arrays import Embedding, Features, Images
from imagen_jax.models.blocks import Gather, as_they_are, whole

FEATURES = 2048
LEAST_SIDE = 75
"""Pixels of the smallest pictures that are not pooled away."""
_EPSILON = 1e-3
_ORDER = ("NHWC", "WHIO", "NHWC")
"""Of pictures, kernels and results; kernels lie as PyTorch's from behind."""


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with its norm and ReLU: its name, channels and kernel.

    Attributes:
        valid: it reads nothing beyond the border, so that the picture gets smaller.
    """

    name: str
    outputs: int
    rows: int = 1
    columns: int = 1
    stride: int = 1
    valid: bool = False


Chain = tuple[Conv | tuple[Conv, Conv], ...]
"""Convolutions one after another; two that stand together read the same."""


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Chains that read the same, and a pooled branch; all lie beside one another.

    Attributes:
        pool: `halve` is the maximum with stride 2, the others have stride 1.
        pooled: what follows the pooling.
    """

    chains: tuple[Chain, ...]
    pool: Literal["average", "maximum", "halve"]
    pooled: Conv | None = None


_strided = functools.partial(Conv, rows=3, columns=3, stride=2, valid=True)


def _mixed_5(pooled: int) -> Mixed:
    chains = (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5, 5)),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, 3, 3),
            Conv("branch3x3dbl_3", 96, 3, 3),
        ),
    )
    return Mixed(chains, "average", Conv("branch_pool", pooled))


def _mixed_6a() -> Mixed:
    chains = (
        (_strided("branch3x3", 384),),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, 3, 3),
            _strided("branch3x3dbl_3", 96),
        ),
    )
    return Mixed(chains, "halve")


def _mixed_6(width: int) -> Mixed:
    chains = (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", width),
            Conv("branch7x7_2", width, 1, 7),
            Conv("branch7x7_3", 192, 7, 1),
        ),
        (
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, 7, 1),
            Conv("branch7x7dbl_3", width, 1, 7),
            Conv("branch7x7dbl_4", width, 7, 1),
            Conv("branch7x7dbl_5", 192, 1, 7),
        ),
    )
    return Mixed(chains, "average", Conv("branch_pool", 192))


def _mixed_7a() -> Mixed:
    chains = (
        (Conv("branch3x3_1", 192), _strided("branch3x3_2", 320)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, 1, 7),
            Conv("branch7x7x3_3", 192, 7, 1),
            _strided("branch7x7x3_4", 192),
        ),
    )
    return Mixed(chains, "halve")


def _mixed_7(pool: Literal["average", "maximum"]) -> Mixed:
    chains = (
        (Conv("branch1x1", 320),),
        (
            Conv("branch3x3_1", 384),
            (Conv("branch3x3_2a", 384, 1, 3), Conv("branch3x3_2b", 384, 3, 1)),
        ),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, 3, 3),
            (Conv("branch3x3dbl_3a", 384, 1, 3), Conv("branch3x3dbl_3b", 384, 3, 1)),
        ),
    )
    return Mixed(chains, pool, Conv("branch_pool", 192))


_STEM: tuple[tuple[Conv, ...], ...] = (
    (
        _strided("Conv2d_1a_3x3", 32),
        Conv("Conv2d_2a_3x3", 32, 3, 3, valid=True),
        Conv("Conv2d_2b_3x3", 64, 3, 3),
    ),
    (Conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, 3, 3, valid=True)),
)
"""Behind each run the picture is pooled to half."""
_MIXED: dict[str, Mixed] = {
    "Mixed_5b": _mixed_5(32),
    "Mixed_5c": _mixed_5(64),
    "Mixed_5d": _mixed_5(64),
    "Mixed_6a": _mixed_6a(),
    "Mixed_6b": _mixed_6(128),
    "Mixed_6c": _mixed_6(160),
    "Mixed_6d": _mixed_6(160),
    "Mixed_6e": _mixed_6(192),
    "Mixed_7a": _mixed_7a(),
    "Mixed_7b": _mixed_7("average"),
    "Mixed_7c": _mixed_7("maximum"),
}


class ConvNorm(nnx.Module):
    """relu((k * x - mean) / sqrt(variance + 1e-3) scale + bias), mean and variance being stored."""

    def __init__(self, inputs: int, conv: Conv, *, rngs: nnx.Rngs) -> None:
        shape = (conv.columns, conv.rows, inputs, conv.outputs)
        self.conv = conv
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))
        self.scale, self.bias = (nnx.Param(jnp.full(conv.outputs, x)) for x in (1.0, 0.0))
        self.mean, self.variance = (nnx.Param(jnp.full(conv.outputs, x)) for x in (0.0, 1.0))

    def __call__(self, x: Features) -> Features:
        padding = "VALID" if self.conv.valid else "SAME"
        strides = (self.conv.stride,) * 2
        x = jax.lax.conv_general_dilated(
            x, self.kernel[...], strides, padding, dimension_numbers=_ORDER
        )
        factor = jax.lax.rsqrt(self.variance[...] + _EPSILON) * self.scale[...]
        return jax.nn.relu((x - self.mean[...]) * factor + self.bias[...])


class InceptionBlock(nnx.Module):
    """What `Mixed` describes."""

    def __init__(self, inputs: int, mixed: Mixed, *, rngs: nnx.Rngs) -> None:
        self.mixed = mixed
        pooled = (mixed.pooled,) if mixed.pooled else ()
        self.outputs = 0
        for chain in (*mixed.chains, pooled):
            width = inputs
            for link in chain:
                convs = link if isinstance(link, tuple) else (link,)
                for conv in convs:
                    setattr(self, conv.name, ConvNorm(width, conv, rngs=rngs))
                width = sum(conv.outputs for conv in convs)
            self.outputs += width

    def __call__(self, x: Features) -> Features:
        branches = [functools.reduce(self._link, chain, x) for chain in self.mixed.chains]
        pooled = _POOLS[self.mixed.pool](x)
        branches.append(self._link(pooled, self.mixed.pooled) if self.mixed.pooled else pooled)
        return jnp.concatenate(branches, axis=-1)

    def _link(self, x: Features, link: Conv | tuple[Conv, Conv]) -> Features:
        if isinstance(link, Conv):
            return getattr(self, link.name)(x)
        return jnp.concatenate([self._link(x, conv) for conv in link], axis=-1)


class Inception(nnx.Module):
    """The network; all of its state is `nnx.Param`."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        width = 3
        for conv in (conv for run in _STEM for conv in run):
            setattr(self, conv.name, ConvNorm(width, conv, rngs=rngs))
            width = conv.outputs
        for name, mixed in _MIXED.items():
            setattr(self, name, InceptionBlock(width, mixed, rngs=rngs))
            width = getattr(self, name).outputs

    def __call__(self, pictures: Images, *, gather: Gather = as_they_are) -> Embedding:
        """The means over positions of the last block's channels, float32.

        Args:
            pictures: in [-1, 1], 299 pixels wide and high where the figure shall be FID; at least
                `LEAST_SIDE`.
            gather: brings a block's sharded parameters together where the block runs.
        """
        x = pictures
        for run in _STEM:
            for conv in run:
                x = whole(getattr(self, conv.name), gather)(x)
            x = _halved(x)
        for name in _MIXED:
            x = whole(getattr(self, name), gather)(x)
        return x.mean((1, 2))


def _halved(x: Features) -> Features:
    return _window(x, -jnp.inf, jax.lax.max, 2, "VALID")


def _maximum(x: Features) -> Features:
    return _window(x, -jnp.inf, jax.lax.max, 1, "SAME")


def _average(x: Features) -> Features:
    """Over those of the 3x3 places that lie in the picture."""
    count = _window(jnp.ones_like(x[:1, :, :, :1]), 0.0, jax.lax.add, 1, "SAME")
    return _window(x, 0.0, jax.lax.add, 1, "SAME") / count


def _window(
    x: Features, start: float, combine: Callable[..., jax.Array], stride: int, padding: str
) -> Features:
    """Over 3x3 places."""
    return jax.lax.reduce_window(x, start, combine, (1, 3, 3, 1), (1, stride, stride, 1), padding)


_POOLS = {"average": _average, "maximum": _maximum, "halve": _halved}
