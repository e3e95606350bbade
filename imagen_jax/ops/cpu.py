"""Forms of the operations that are quick on CPUs, with the values and gradients of the plain ones.

On other platforms each compiles to the plain form. Gradients that JAX would derive as slow programs
are written by hand, for the reverse direction alone; `choice.plain` is for the other.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from imagen_jax.arrays import Features, Images
from imagen_jax.ops import amx, attention, convolution, normalisation, resampling
from imagen_jax.ops.attention import Attended, Heads, KeyMask
from imagen_jax.ops.choice import on_cpus, on_one_cpu, one_device
from imagen_jax.ops.convolution import USUAL, Kernel

OfQueries = Float[Array, "queries width"]
"""Of one head of one picture."""
OfKeys = Float[Array, "keys width"]
Windows = Float[Array, "windows _ _ _"]
HeadMask = Bool[Array, " keys"]

_CHUNK_OF_HEAD = 1024
"""Most queries of one head at a time, so that the weights lie in the cache."""

_written = jax.lax.optimization_barrier


def written_once(x: Any) -> Any:
    """x, a tree of arrays, each written to memory before it is read, and its gradient too.

    XLA's CPU compiler fuses the sums of a residual stream into whatever reads them, and computes
    them again for every reader, most slowly where the reader changes the order of dimensions.
    """
    return on_cpus(_written, lambda x: x, x)


def downsample(x: Features) -> Features:
    """Written before it is read: fused with what reads them, means take time and memory."""
    return written_once(resampling.downsample(x))


def group_norm(
    x: Images,
    *parameters: jax.Array | float,
    groups: int,
    epsilon: float,
    activation: normalisation.Activation | None,
) -> Images:
    """Keeps nothing of the activation and what it reads but x for the backward pass.

    What XLA's CPU compiler would keep of them takes a pass over memory of its own, to write and to
    read.
    """
    factors = normalisation.group_norm_map(x, *parameters, groups=groups, epsilon=epsilon)
    mapped = lambda *inputs: normalisation.mapped(*inputs, activation)  # noqa: E731
    if activation is None:
        return mapped(x, *factors)
    return on_cpus(jax.checkpoint(mapped), mapped, x, *factors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Features, kernel: Kernel, stride: int) -> Features:
    """The plain form, whose gradients are convolutions in the usual order of dimensions.

    Those that JAX derives have another order. XLA's CPU compiler has fast code for the usual order
    alone, and reorders dimensions only outside of loops: in the body of a scan, which remat and
    accumulation make, a gradient takes many times as long as outside.
    """
    return convolution.convolve(x, kernel, stride)


def _forward(x: Features, kernel: Kernel, stride: int) -> tuple[Features, tuple[Features, Kernel]]:
    return convolution.convolve(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, inputs: tuple[Features, Kernel], gradient: Features
) -> tuple[Features, Kernel]:
    plain_form = functools.partial(convolution.convolve, stride=stride)

    def derived(x, kernel, gradient):
        return jax.vjp(plain_form, x, kernel)[1](gradient)

    def in_usual_order(x, kernel, gradient):
        # Lest what computes them is fused into copies of another order, or into a convolution.
        x, gradient = _written((x, gradient))
        of_input = _input_gradient(gradient, kernel, stride, x.shape)
        of_kernel = _kernel_gradient(x, gradient, stride, kernel.shape)
        return _written(of_input), of_kernel

    return on_cpus(in_usual_order, derived, *inputs, gradient)


convolve.defvjp(_forward, _backward)


def _input_gradient(
    gradient: Features, kernel: Kernel, stride: int, shape: tuple[int, ...]
) -> Features:
    """dx[h, w] = sum_ij dy[(h - i) / stride, (w - j) / stride] kernel[i, j]^T."""
    padding = [
        (taps - 1 - before, size - 1 - (new - 1) * stride + before)
        for taps, before, size, new in _sides(shape, kernel.shape, gradient.shape, stride)
    ]
    # Written between the two, as XLA's CPU compiler is slow to do both at once.
    turned = _written(kernel[::-1, ::-1]).swapaxes(2, 3)
    return jax.lax.conv_general_dilated(
        gradient, turned, (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=USUAL
    )


def _kernel_gradient(
    x: Features, gradient: Features, stride: int, shape: tuple[int, ...]
) -> Kernel:
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
    if amx.compiler_options(x.dtype.name):
        x, gradient = _in_windows(_padded(x, edges), gradient, stride, shape)
        x = x.transpose(3, 1, 2, 0)
    else:
        x = _padded(x.transpose(3, 1, 2, 0), edges)
    result = jax.lax.conv_general_dilated(
        x,
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        "VALID",
        rhs_dilation=(stride, stride),
        dimension_numbers=USUAL,
    )
    return result.transpose(1, 2, 0, 3)


def _padded(x: Features, edges: list[tuple[int, int, int]]) -> Features:
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


def _in_windows(
    x: Features, gradient: Features, stride: int, kernel: tuple[int, ...]
) -> tuple[Windows, Windows]:
    """Each window of the gradient and what it reads of x, as pictures of their own.

    There are `amx.INPUTS` or more, which the units multiply at once, and fewer only if a window has
    an odd number of rows and columns; black pictures, which add nothing to a sum, then fill up what
    is needed.
    """
    rows, columns, (height, width) = 1, 1, gradient.shape[1:3]
    while len(x) * rows * columns < amx.INPUTS and not (height % 2 and width % 2):
        if height % 2 or (width % 2 == 0 and width > height):
            columns, width = 2 * columns, width // 2
        else:
            rows, height = 2 * rows, height // 2
    at = [(row * height, column * width) for row in range(rows) for column in range(columns)]
    read = [(size - 1) * stride + taps for size, taps in zip((height, width), kernel, strict=False)]
    x = _written([x[:, stride * i :, stride * j :][:, : read[0], : read[1]] for i, j in at])
    gradient = [gradient[:, i : i + height, j : j + width] for i, j in at]
    few = [(0, max(0, amx.FEWEST_INPUTS - len(at) * len(x[0]))), (0, 0), (0, 0), (0, 0)]
    return tuple(jnp.pad(jnp.concatenate(side), few) for side in (x, gradient))


def _matrix_gradient(x: Features, gradient: Features) -> Float[Array, "inputs outputs"]:
    """A product whose left side is transposed.

    XLA's CPU compiler copies that side into another order if positions have several dimensions; of
    a single one its library reads it as it lies, and is quicker the narrower it is.
    """
    if not one_device():
        # One dimension of all positions would bring together what devices have parts of.
        return jnp.einsum("BHWI,BHWO->IO", x, gradient)
    x, gradient = (side.reshape(-1, side.shape[-1]) for side in (x, gradient))
    over_positions = (((0,), (0,)), ((), ()))
    if x.shape[1] <= gradient.shape[1]:
        return jax.lax.dot_general(x, gradient, over_positions)
    # The barrier keeps the order of the two.
    turned = jax.lax.dot_general(gradient, x, over_positions)
    return _written(turned).T


def _sides(
    x: tuple[int, ...], kernel: tuple[int, ...], y: tuple[int, ...], stride: int
) -> list[tuple[int, int, int, int]]:
    """Taps, padding before, size of x and size of y, of rows and of columns."""
    padding = jax.lax.padtype_to_pads(x[1:3], kernel[:2], (stride, stride), "SAME")
    before = [pair[0] for pair in padding]
    return list(zip(kernel[:2], before, x[1:3], y[1:3], strict=True))


def convolve_upsampled(x: Features, kernel: Kernel) -> Features:
    """The convolution by taps of the picture before it is upsampled: 4/9 of the products.

    Not on several devices: each may have a part of the rows, of which one more than there are is
    not divided.
    """

    def upsampled_first(x, kernel):
        return convolve(resampling.upsample(x), kernel, 1)

    return on_one_cpu(_by_squares, upsampled_first, x, kernel)


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
    return resampling.depth_to_space(convolve(jnp.pad(x, before), squares, 1), 2)[:, 1:-1, 1:-1]


def convolve_downsampled(x: Features, kernel: Kernel) -> Features:
    """Fused with what gives x, its means take time and memory too."""
    return convolve(downsample(written_once(x)), kernel, 1)


def attend(queries: Heads, keys: Heads, values: Heads, mask: KeyMask) -> Attended:
    """Many queries by one head of one picture at a time."""
    if queries.shape[1] <= attention.CHUNK:
        return attention.attend(queries, keys, values, mask)
    return on_one_cpu(_head_by_head, attention.attend, queries, keys, values, mask)


def _head_by_head(queries: Heads, keys: Heads, values: Heads, mask: KeyMask) -> Attended:
    """One head of one picture at a time, whose weights lie in the cache.

    Not for several devices: each would compute all of it.
    """
    batch, count, heads, width = queries.shape
    chunk = attention.queries_at_a_time(count, _CHUNK_OF_HEAD)
    apart = lambda x: x.swapaxes(1, 2).reshape(batch * heads, -1, width)  # noqa: E731

    def head(own: tuple[jax.Array, ...]) -> jax.Array:
        queries, keys, values, mask = own
        parts = queries.reshape(-1, chunk, width)
        return jax.lax.map(lambda part: _attend_head(part, keys, values, mask), parts)

    out = jax.lax.map(head, (apart(queries), apart(keys), apart(values), mask.repeat(heads, 0)))
    return out.reshape(batch, heads, count, width).swapaxes(1, 2).reshape(batch, count, -1)


@jax.custom_vjp
def _attend_head(queries: OfQueries, keys: OfKeys, values: OfKeys, mask: HeadMask) -> OfQueries:
    """The plain form, divided at last: there are fewer results than weights."""
    return _attend_head_forward(queries, keys, values, mask)[0]


def _attend_head_forward(
    queries: OfQueries, keys: OfKeys, values: OfKeys, mask: HeadMask
) -> tuple[OfQueries, tuple[jax.Array, ...]]:
    """The forward pass, which keeps each query's log sum exp: the weights come again from it."""
    logits = jnp.where(mask, _product(queries * queries.shape[-1] ** -0.5, keys.T), -1e30)
    largest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = (_product(weights, values) / total).astype(values.dtype)
    return out, (queries, keys, values, mask, out, (largest + jnp.log(total))[:, 0])


def _attend_head_backward(
    kept: tuple[jax.Array, ...], gradient: OfQueries
) -> tuple[OfQueries, OfKeys, OfKeys, None]:
    """dV = P^T dO, dS = P * (dO V^T - rowsum(dO * O)), dQ = dS K, dK = dS^T Q.

    P = exp(S - log sum exp) are the weights (Dao et al. 2022, FlashAttention, appendix B.2).
    P and dS are computed as keys x queries: transposed on the left of a product, as they were
    otherwise, XLA's CPU compiler has slower code for them. The barriers keep it from turning a
    product back to that, and from computing one again for each of its readers.
    """
    queries, keys, values, mask, out, log_sum_exp = kept
    scale = queries.shape[-1] ** -0.5
    scaled = queries * scale
    row_sum = jnp.sum(gradient.astype(jnp.float32) * out, axis=-1)
    keys_t, scaled_t, gradient_t = _written((keys.T, scaled.T, gradient.T))
    logits = jnp.where(mask[:, None], _product(keys, scaled_t), -1e30)
    weights = jnp.exp(logits - log_sum_exp)
    of_logits = weights * (_written(_product(values, gradient_t)) - row_sum)
    of_queries = scale * _written(_product(keys_t, of_logits)).T
    return (
        of_queries.astype(queries.dtype),
        _product(of_logits, scaled).astype(keys.dtype),
        _product(weights, gradient).astype(values.dtype),
        None,
    )


_attend_head.defvjp(_attend_head_forward, _attend_head_backward)


def _product(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)
