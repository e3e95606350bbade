"""The operations that the networks are built from.

`convolution`, `attention`, `normalisation` and `resampling` hold them in plain JAX, beside their
equations. Accelerators run these, and they have derivatives of every kind: forward (`jax.jvp`),
reverse, and one of the other.

`cpu` holds forms of some of them that XLA's CPU compiler has quicker code for, with equal values
and gradients. A program gets both, and the platform that it is compiled for decides. Their
gradients are written by hand for the reverse direction alone, so whoever takes `jax.jvp` of a
network calls it within `plain()`, on any platform. `amx` has what the compiler is told for networks
in bfloat16 on CPUs with units for it.

Networks call what is named here. `choice` says which form that is.
"""

from imagen_jax.ops import attention, convolution, cpu, normalisation, resampling
from imagen_jax.ops.amx import compiler_options, in_float32
from imagen_jax.ops.attention import attend_with_bias
from imagen_jax.ops.choice import choose, plain
from imagen_jax.ops.normalisation import rms_norm
from imagen_jax.ops.resampling import depth_to_space, space_to_depth, upsample

__all__ = [
    "attend",
    "attend_with_bias",
    "compiler_options",
    "convolve",
    "convolve_downsampled",
    "convolve_upsampled",
    "depth_to_space",
    "downsample",
    "group_norm",
    "plain",
    "rms_norm",
    "space_to_depth",
    "upsample",
    "written_once",
]

attend = choose(attention.attend, cpu.attend)
convolve = choose(in_float32(convolution.convolve), cpu.convolve)
convolve_downsampled = choose(
    in_float32(convolution.convolve_downsampled), cpu.convolve_downsampled
)
convolve_upsampled = choose(in_float32(convolution.convolve_upsampled), cpu.convolve_upsampled)
downsample = choose(resampling.downsample, cpu.downsample)
group_norm = choose(normalisation.group_norm, cpu.group_norm)
written_once = choose(lambda x: x, cpu.written_once)
