"""The forms of CPUs: equal to the plain ones, and in no other platform's program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from in_numpy import normal

from imagen_jax import ops
from imagen_jax.models.blocks import run_blocks
from imagen_jax.models.layers import ResBlock
from imagen_jax.ops import attention, convolution, cpu, normalisation, resampling

HEADS = [normal(2, 512, 3, 4), normal(2, 6, 3, 4, seed=1), normal(2, 6, 3, 4, seed=2)]
MASK = np.arange(6) < np.array([[2], [6]])
PICTURES, KERNEL = normal(2, 6, 4, 8), normal(3, 3, 8, 5, seed=1)
NORM = [PICTURES, normal(8, seed=1), normal(8, seed=2), normal(2, 8, seed=3), normal(2, 8, seed=4)]
of_groups = functools.partial(functools.partial, groups=4, epsilon=1e-5)
CASES = {
    "attend": (attention.attend, cpu.attend, HEADS, [MASK]),
    "convolve": (
        functools.partial(convolution.convolve, stride=2),
        lambda *arrays: cpu.convolve(*arrays, 2), [PICTURES, KERNEL], [],
    ),
    "convolve_downsampled": (
        convolution.convolve_downsampled, cpu.convolve_downsampled, [PICTURES, KERNEL], [],
    ),
    "convolve_upsampled": (
        convolution.convolve_upsampled, cpu.convolve_upsampled, [PICTURES, KERNEL], [],
    ),
    "downsample": (resampling.downsample, cpu.downsample, [PICTURES], []),
    "group_norm": (
        of_groups(normalisation.group_norm, activation=None),
        of_groups(cpu.group_norm, activation=None), NORM, [],
    ),
    "group_norm with an activation": (
        of_groups(normalisation.group_norm, activation=jnp.tanh),
        of_groups(cpu.group_norm, activation=jnp.tanh), NORM, [],
    ),
    "written_once": (lambda x: x, cpu.written_once, [PICTURES], []),
}  # fmt: skip
"""Name -> the plain form, the form of CPUs, what is differentiated, what is not."""


@pytest.mark.usefixtures("device_count")
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_plain_form(name):
    plain, quick, *given = CASES[name]
    arrays, others = jax.tree.map(jnp.asarray, given)

    def run(form):
        out, transposed = jax.vjp(lambda *arrays: form(*arrays, *others), *arrays)
        return out, *transposed(jnp.asarray(normal(*out.shape, seed=9)))

    for result, expected in zip(run(quick), run(plain), strict=True):
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_every_form_of_cpus_is_among_the_cases():
    public = {name for name, value in vars(cpu).items()
              if getattr(value, "__module__", None) == cpu.__name__ and name[0] != "_"}  # fmt: skip
    assert public == {name.split()[0] for name in CASES}


def lowered(function, *inputs, platform):
    return jax.jit(function).trace(*inputs).lower(lowering_platforms=(platform,)).as_text()


def barriers(function, *inputs, platform):
    return lowered(function, *inputs, platform=platform).count("optimization_barrier")


def test_only_cpus_write_a_blocks_input_before_it_is_read():
    """And its gradient; elsewhere the compiler is free."""
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(ops.written_once(x))))
    call = lambda _, x, add: jnp.sin(x) + add  # noqa: E731
    blocks = lambda x: run_blocks([nnx.Module()] * 3, x, [1.0, 2.0, 3.0], call)[-1]  # noqa: E731
    for platform, (of_gradient, of_blocks) in {
        "cpu": (2, 3),
        "tpu": (0, 0),
        "cuda": (0, 0),
    }.items():
        assert barriers(gradient, jnp.ones(3), platform=platform) == of_gradient
        assert barriers(blocks, jnp.ones(3), platform=platform) == of_blocks


def test_only_cpus_write_pictures_before_and_after_downsampling():
    """One barrier for the features, and one for each of the two means over squares."""
    block = ResBlock(4, 4, 4, resample="down", dtype="float32", rngs=nnx.Rngs(0))
    given = jnp.ones((1, 4, 4, 4)), jnp.ones((1, 4))
    for platform, count in {"cpu": 3, "tpu": 0, "cuda": 0}.items():
        assert barriers(block, *given, platform=platform) == count


def test_only_cpus_compute_activations_again():
    """The derivative of tanh is made of tanh, which others keep."""
    norm = of_groups(ops.group_norm, activation=jnp.tanh)
    both = jax.value_and_grad(lambda *arrays: jnp.sum(norm(*arrays)))
    for platform, times in {"cpu": 2, "tpu": 1, "cuda": 1}.items():
        assert (
            lowered(both, *map(jnp.asarray, NORM), platform=platform).count("stablehlo.tanh")
            == times
        )
