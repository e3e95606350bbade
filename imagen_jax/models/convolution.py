"""The convolution of both U-Nets, with gradients that are quick in loops on CPUs too.

JAX derives the gradients as convolutions whose dimensions lie in another order. XLA's CPU compiler
has fast code for the usual order alone, and reorders dimensions only outside of loops: in the body
of a scan, which remat and accumulation make, a gradient takes many times as long as outside. So for
CPUs both are written in the usual order. All else keeps JAX's own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from imagen_jax.arrays import Features
from imagen_jax.models.resampling import depth_to_space, upsample

Kernel = Float[Array, "rows columns inputs outputs"]
Bias = Float[Array, " outputs"]

_USUAL = ("NHWC", "HWIO", "NHWC")


class Conv(nnx.Conv):
    """`nnx.Conv`, same-padded, whose gradient is `convolve`'s."""

    def __call__(self, x: Features) -> Features:
        x, kernel, bias = self._promoted(x)
        return convolve(x, kernel, self.strides) + bias

    def of_upsampled(self, x: Features) -> Features:
        """`self(upsample(x))`, of stride 1 and 3x3 taps."""
        x, kernel, bias = self._promoted(x)
        return convolve_upsampled(x, kernel) + bias

    def _promoted(self, x: Features) -> tuple[Features, Kernel, Bias]:
        return self.promote_dtype((x, self.kernel[...], self.bias[...]), dtype=self.dtype)


def convolve_upsampled(x: Features, kernel: Kernel) -> Features:
    """convolve(upsample(x), kernel, 1), for which one CPU multiplies 4/9 as often."""

    def plain(x, kernel):
        return convolve(upsample(x), kernel, 1)

    if jax.device_count() > 1:
        # Each may have a part of the rows, of which one more than there are is not divided.
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_by_squares, default=plain)


def _by_squares(x: Features, kernel: Kernel) -> Features:
    """y[2h - 1 + p] = sum_i x[h - 1 + (p + i) // 2] kernel[i] for p = 0, 1, and so in columns.

    Rows h - 1 and h of x give two rows of y, by taps that are sums of the kernel's: a convolution
    of 2x2 taps gives squares of y as channels (Aitken et al. 2017, Checkerboard artifact free
    sub-pixel convolution).
    """
    phase, tap, row = np.ogrid[:2, :3, :2]
    reads = ((phase + tap) // 2 == row).astype(np.float32)
    squares = jnp.einsum(
        "pit,qjs,ijCD->tsCpqD", reads, reads, kernel, preferred_element_type=jnp.float32
    )
    squares = squares.reshape(2, 2, kernel.shape[2], -1).astype(kernel.dtype)
    before = ((0, 0), (1, 0), (1, 0), (0, 0))  # Same-padding has the row and column after.
    return depth_to_space(convolve(jnp.pad(x, before), squares, 1), 2)[:, 1:-1, 1:-1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Features, kernel: Kernel, stride: int) -> Features:
    """y[h, w] = sum_ij x[stride h + i, stride w + j] kernel[i, j], same-padded."""
    return _convolve(x, kernel, stride)


def _convolve(x: Features, kernel: Kernel, stride: int) -> Features:
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=_USUAL)


def _forward(x: Features, kernel: Kernel, stride: int) -> tuple[Features, tuple[Features, Kernel]]:
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, inputs: tuple[Features, Kernel], gradient: Features
) -> tuple[Features, Kernel]:
    def derived(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: _convolve(x, kernel, stride), x, kernel)[1](gradient)

    def written(x, kernel, gradient):
        # Lest what computes them is fused into copies of another order, or into a convolution.
        x, gradient = jax.lax.optimization_barrier((x, gradient))
        of_input = input_gradient(gradient, kernel, stride, x.shape)
        of_kernel = kernel_gradient(x, gradient, stride, kernel.shape)
        return jax.lax.optimization_barrier(of_input), of_kernel

    return jax.lax.platform_dependent(*inputs, gradient, cpu=written, default=derived)


convolve.defvjp(_forward, _backward)


def input_gradient(
    gradient: Features, kernel: Kernel, stride: int, shape: tuple[int, ...]
) -> Features:
    """dx[h, w] = sum_ij dy[(h - i) / stride, (w - j) / stride] kernel[i, j]^T."""
    padding = [
        (taps - 1 - before, size - 1 - (new - 1) * stride + before)
        for taps, before, size, new in _sides(shape, kernel.shape, gradient.shape, stride)
    ]
    # Written between the two, as XLA's CPU compiler is slow to do both at once.
    turned = jax.lax.optimization_barrier(kernel[::-1, ::-1]).swapaxes(2, 3)
    return jax.lax.conv_general_dilated(
        gradient, turned, (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=_USUAL
    )


def kernel_gradient(x: Features, gradient: Features, stride: int, shape: tuple[int, ...]) -> Kernel:
    """dkernel[i, j] = sum_hw x[stride h + i, stride w + j]^T dy[h, w], over all pictures."""
    if shape[:2] == (1, 1) and stride == 1:
        return _matrix_gradient(x, gradient)[None, None]
    padding = [
        (before, (new - 1) * stride + taps - size - before)
        for taps, before, size, new in _sides(x.shape, shape, gradient.shape, stride)
    ]
    # Channels are taken for pictures, and pictures for channels. Padding comes first, as XLA's CPU
    # compiler has no fast code for a kernel that is larger than the picture without it.
    edges = [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]
    x = jax.lax.pad(x.transpose(3, 1, 2, 0), jnp.zeros((), x.dtype), edges)
    result = jax.lax.conv_general_dilated(
        x, gradient.transpose(1, 2, 0, 3), (1, 1), "VALID",
        rhs_dilation=(stride, stride), dimension_numbers=_USUAL,
    )  # fmt: skip
    return result.transpose(1, 2, 0, 3)


def _matrix_gradient(x: Features, gradient: Features) -> Float[Array, "inputs outputs"]:
    """A product whose left side is transposed.

    XLA's CPU compiler copies that side into another order if positions have several dimensions; of
    a single one its library reads it as it lies, and is quicker the narrower it is.
    """
    if jax.device_count() > 1:
        # One dimension of all positions would bring together what devices have parts of.
        return jnp.einsum("BHWI,BHWO->IO", x, gradient)
    x, gradient = (side.reshape(-1, side.shape[-1]) for side in (x, gradient))
    over_positions = (((0,), (0,)), ((), ()))
    if x.shape[1] <= gradient.shape[1]:
        return jax.lax.dot_general(x, gradient, over_positions)
    # The barrier keeps the order of the two.
    turned = jax.lax.dot_general(gradient, x, over_positions)
    return jax.lax.optimization_barrier(turned).T


def _sides(
    x: tuple[int, ...], kernel: tuple[int, ...], y: tuple[int, ...], stride: int
) -> list[tuple[int, int, int, int]]:
    """Of rows and of columns: taps, padding before, size of x, size of y."""
    padding = jax.lax.padtype_to_pads(x[1:3], kernel[:2], (stride, stride), "SAME")
    before = [pair[0] for pair in padding]
    return list(zip(kernel[:2], before, x[1:3], y[1:3], strict=True))
