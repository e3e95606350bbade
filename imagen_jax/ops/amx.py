"""bfloat16 on CPUs with AMX, Intel's units for products of bfloat16.

XLA compiles matrix products for these units by itself. Convolutions it hands to its copy of oneDNN,
which uses them too, where an option of the compiler says so. Programs of networks in bfloat16 are
compiled with `compiler_options`, and nothing changes on other machines and in float32.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.ops.choice import one_cpu

_OPTIONS = {"xla_cpu_experimental_onednn_custom_call": True}
INPUTS = 32
"""Input channels that the units multiply at once."""
FEWEST_INPUTS = 16
"""Input channels of a convolution by a large kernel, at least. oneDNN's sums are wrong for some
such convolutions of fewer: by 16x16 taps of 4 or 8 channels, for example (jaxlib 0.12.0)."""
_PICTURE, _KERNEL = (1, 8, 8, 16), (3, 3, 16, 16)


def compiler_options(dtype: str) -> dict[str, bool]:
    """For programs of a network that computes in `dtype`; empty where none help.

    Several devices have none: of a batch in parts, each may have fewer than `FEWEST_INPUTS`.
    """
    return _OPTIONS if dtype == "bfloat16" and one_cpu() and has_convolutions() else {}


def in_float32(convolve: Callable) -> Callable:
    """A convolution whose gradients JAX derives, kept from oneDNN: these may have few inputs."""

    @functools.wraps(convolve)
    def run(x: jax.Array, kernel: jax.Array, *strides: int) -> jax.Array:
        if not compiler_options(x.dtype.name):
            return convolve(x, kernel, *strides)
        wide = convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), *strides)
        return wide.astype(x.dtype)

    return run


@functools.cache
def has_units() -> bool:
    """Whether this machine's processor has AMX units for bfloat16."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


@functools.cache
def has_convolutions() -> bool:
    """Whether this jaxlib compiles convolutions for the units of this machine, and rightly.

    To be asked only where `one_cpu()`. An option that jaxlib does not know is an error, and one
    that it does not heed does nothing. Programs with oneDNN in them cannot be written to disk: each
    process compiles its own.
    """
    if not has_units():
        return False
    rng = np.random.default_rng(0)
    # Whoever asks may be tracing a network.
    with jax.ensure_compile_time_eval():
        x, kernel = (
            jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in (_PICTURE, _KERNEL)
        )
        try:
            compiled = jax.jit(_convolve).lower(x, kernel).compile(compiler_options=_OPTIONS)
        except jax.errors.JaxRuntimeError:
            return False
        expected = _convolve(x.astype(jnp.float32), kernel.astype(jnp.float32))
        right = np.allclose(compiled(x, kernel), expected, atol=0.2, rtol=0.02)
    return right and "onednn" in compiled.as_text()


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
