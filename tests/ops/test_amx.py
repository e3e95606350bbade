"""bfloat16 convolutions of CPUs with AMX: sums of the right numbers, on machines that have it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_numpy import normal

from imagen_jax import ops
from imagen_jax.ops import amx, convolution, cpu

SHAPES = [
    # (pictures, rows, columns, inputs, outputs), taps, stride
    ((3, 8, 6, 5, 7), 3, 1),
    ((1, 16, 16, 4, 4), 3, 1),
    ((2, 8, 8, 3, 5), 3, 2),
    ((1, 9, 7, 3, 5), 3, 1),
    ((2, 5, 4, 3, 2), 1, 2),
    ((33, 4, 4, 3, 2), 3, 1),
]
WHOLE = [
    *SHAPES,
    ((4, 16, 16, 64, 64), 3, 1),
    ((8, 64, 64, 16, 64), 3, 1),
    ((2, 12, 64, 3, 16), 3, 1),
]
"""Of these oneDNN's own sums are wrong for some, where pictures are taken for channels."""


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def made(sizes, taps, stride):
    """A picture, a kernel, and a gradient of what they give."""
    batch, rows, columns, inputs, outputs = sizes
    x, kernel = normal(batch, rows, columns, inputs), normal(taps, taps, inputs, outputs, seed=1)
    y = normal(batch, -(-rows // stride), -(-columns // stride), outputs, seed=2)
    return [jnp.asarray(array) for array in (x, kernel, y)]


def values_and_gradients(convolve, stride, x, kernel, gradient):
    y, transposed = jax.vjp(functools.partial(convolve, stride=stride), x, kernel)
    return y, *transposed(gradient.astype(y.dtype))


def narrow(x, kernel, stride, convolve=cpu.convolve):
    return convolve(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), stride)


def assert_right(results, expected):
    """As far as bfloat16 goes: inputs and sums are rounded to 8 bits, and sums have few inputs."""
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(
            result.astype(np.float32), right, rtol=0.03, atol=0.01 * np.abs(right).max()
        )


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(("sizes", "taps", "stride"), SHAPES)
def test_a_kernels_gradient_is_the_sum_over_windows(sizes, taps, stride, monkeypatch):
    """In any program: the option decides only who computes the convolution."""
    monkeypatch.setattr(amx, "has_convolutions", lambda: True)
    given = stride, *made(sizes, taps, stride)
    expected = values_and_gradients(convolution.convolve, *given)
    assert_right(values_and_gradients(narrow, *given), expected)


@pytest.mark.parametrize("pictures", [1, 2, 5, 8, 31, 32, 40])
def test_windows_are_as_many_as_the_units_multiply_at_once(pictures):
    x, gradient = jnp.ones((pictures, 18, 34, 2)), jnp.ones((pictures, 16, 32, 3))
    x, gradient = cpu._in_windows(x, gradient, 1, (3, 3))
    assert len(x) == len(gradient) >= amx.INPUTS
    assert np.sum(gradient) == pictures * 16 * 32 * 3
    assert [size - 2 for size in x.shape[1:3]] == list(gradient.shape[1:3])


def test_pictures_of_odd_sizes_are_filled_up():
    x, gradient = cpu._in_windows(jnp.ones((2, 7, 5, 2)), jnp.ones((2, 5, 3, 3)), 1, (3, 3))
    assert len(x) == len(gradient) == amx.FEWEST_INPUTS
    assert np.sum(gradient) == 2 * 5 * 3 * 3


@pytest.mark.usefixtures("one_device")
@pytest.mark.skipif(not amx.has_convolutions(), reason="needs AMX, and a jaxlib that uses it")
@pytest.mark.parametrize(("sizes", "taps", "stride"), WHOLE)
def test_programs_for_the_units_compute_what_float32_does(sizes, taps, stride):
    """In the form of CPUs, and in the plain one, whose gradients JAX derives."""
    options, arrays = ops.compiler_options("bfloat16"), made(sizes, taps, stride)
    expected = values_and_gradients(convolution.convolve, stride, *arrays)

    def run(*arrays):  # Not of constants, which XLA would compute itself.
        quick = values_and_gradients(narrow, stride, *arrays)
        with ops.plain():
            form = functools.partial(narrow, convolve=ops.convolve)
            return quick, values_and_gradients(form, stride, *arrays)

    compiled = jax.jit(run).lower(*arrays).compile(compiler_options=options)
    for results in compiled(*arrays):
        assert_right(results, expected)


@pytest.mark.usefixtures("one_device")
def test_only_networks_in_bfloat16_on_one_cpu_have_options(monkeypatch):
    monkeypatch.setattr(amx, "has_convolutions", lambda: True)
    assert ops.compiler_options("bfloat16")
    assert not ops.compiler_options("float32")
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not ops.compiler_options("bfloat16")


@pytest.mark.usefixtures("one_device")
def test_a_machine_with_a_gpu_is_not_asked_for_its_cpu(monkeypatch):
    """Which JAX_PLATFORMS=cuda leaves out; forms of CPUs are traced there too."""
    monkeypatch.setattr(amx, "has_units", lambda: pytest.fail("asked"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    values_and_gradients(narrow, 1, *made((2, 4, 4, 3, 5), 3, 1))
    assert not ops.compiler_options("bfloat16")


def test_a_jaxlib_that_does_not_know_the_option_is_left_alone(monkeypatch):
    monkeypatch.setattr(amx, "has_units", lambda: True)
    monkeypatch.setattr(amx, "_OPTIONS", {"xla_cpu_no_such_option": True})
    assert not amx.has_convolutions.__wrapped__()


def test_wrong_sums_are_not_used(monkeypatch):
    """A program whose text names oneDNN, and whose convolutions are of other numbers."""
    monkeypatch.setattr(amx, "has_units", lambda: True)
    monkeypatch.setattr(amx, "_OPTIONS", {})

    def compiled_wrongly(lowered, compiler_options):
        del lowered, compiler_options
        return type("Compiled", (), {
            "__call__": lambda self, x, kernel: jnp.zeros((*x.shape[:3], kernel.shape[3])),
            "as_text": lambda self: "onednn",
        })()  # fmt: skip

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiled_wrongly)
    assert not amx.has_convolutions.__wrapped__()


def test_processors_without_the_units_are_left_alone(monkeypatch):
    monkeypatch.setattr(amx, "has_units", lambda: False)
    assert not amx.has_convolutions.__wrapped__()
