"""The plain forms have derivatives of every kind, which finite differences confirm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_numpy import normal
from jax.test_util import check_grads

from imagen_jax import ops

MASK = np.arange(6) < np.array([[2], [6]])
HEADS = [normal(2, 5, 2, 3), normal(2, 6, 2, 3, seed=1), normal(2, 6, 2, 3, seed=2)]
MANY = [normal(1, 512, 1, 2), normal(1, 6, 1, 2, seed=1), normal(1, 6, 1, 2, seed=2)]
PICTURES, KERNEL = normal(1, 4, 4, 4), normal(3, 3, 4, 2, seed=1) / 6
NORM = [PICTURES, normal(4, seed=1), normal(4, seed=2), normal(1, 4, seed=3), normal(1, 4, seed=4)]
CASES = {
    "attend": (lambda *heads: ops.attend(*heads, jnp.asarray(MASK)), HEADS),
    "attend in parts": (lambda *heads: ops.attend(*heads, jnp.asarray(MASK[1:])), MANY),
    "attend_with_bias": (
        lambda *heads: ops.attend_with_bias(*heads, jnp.asarray(MASK)),
        [*HEADS, normal(2, 5, 6, seed=3)],
    ),
    "convolve": (lambda *arrays: ops.convolve(*arrays, 1), [PICTURES, KERNEL]),
    "convolve with a stride": (lambda *arrays: ops.convolve(*arrays, 2), [PICTURES, KERNEL]),
    "convolve_downsampled": (ops.convolve_downsampled, [PICTURES, KERNEL]),
    "convolve_upsampled": (ops.convolve_upsampled, [PICTURES, KERNEL]),
    "depth_to_space": (lambda x: ops.depth_to_space(x, 2), [PICTURES]),
    "downsample": (ops.downsample, [PICTURES]),
    "group_norm": (
        functools.partial(ops.group_norm, groups=2, epsilon=1e-5, activation=jnp.tanh), NORM,
    ),
    "rms_norm": (ops.rms_norm, [normal(1, 3, 8), normal(8, seed=1)]),
    "space_to_depth": (lambda x: ops.space_to_depth(x, 2), [PICTURES]),
    "upsample": (ops.upsample, [PICTURES]),
    "written_once": (ops.written_once, [PICTURES]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_forward_reverse_and_second_derivatives_are_finite_differences(name):
    function, arrays = CASES[name]
    with ops.plain():
        check_grads(jax.jit(function), arrays, order=2, modes=("fwd", "rev"), atol=0.02, rtol=0.02)


def test_every_operation_is_among_the_cases():
    assert {name.split()[0] for name in CASES} == set(ops.__all__) - {"plain", "compiler_options"}
