"""Same-padded convolutions, in plain JAX."""

import jax
from jaxtyping import Array, Float

from imagen_jax.arrays import Features
from imagen_jax.ops.resampling import downsample, upsample

Kernel = Float[Array, "rows columns inputs outputs"]

USUAL = ("NHWC", "HWIO", "NHWC")
"""The order of the dimensions of pictures, kernels and results."""


def convolve(x: Features, kernel: Kernel, stride: int) -> Features:
    """y[h, w] = sum_ij x[stride h + i, stride w + j] kernel[i, j], same-padded."""
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=USUAL)


def convolve_upsampled(x: Features, kernel: Kernel) -> Features:
    """y[h, w] = sum_ij x[(h + i) // 2, (w + j) // 2] kernel[i, j]: of x with pixels repeated.

    The kernel has 3x3 taps.
    """
    return convolve(upsample(x), kernel, 1)


def convolve_downsampled(x: Features, kernel: Kernel) -> Features:
    """y[h, w] = sum_ij m[h + i, w + j] kernel[i, j], where m are the means of squares of x."""
    return convolve(downsample(x), kernel, 1)
