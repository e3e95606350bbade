"""The blocks that a training step's memory comes in on CPUs. What they gain is no test's matter."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.training import host_memory
from imagen_jax.training.host_memory import compile_in_blocks, in_blocks

gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ x.T) @ x))))


@pytest.mark.parametrize("rows", [64, 1024, 3072])
def test_blocks_have_room_for_every_array(rows, capfd):
    """XLA warns of each that has no room: arrays of 16 KiB, 4 MiB and 36 MiB."""
    compile_in_blocks(gradient.lower(jnp.ones((rows, 16))))
    assert "larger than" not in capfd.readouterr().err


def test_their_size_is_what_the_compiler_is_told(capfd, monkeypatch):
    monkeypatch.setattr(host_memory, "_SHAPE", re.compile("(nothing is found)"))
    compile_in_blocks(gradient.lower(jnp.ones((3072, 16))))
    assert "larger than the per-heap size limit 8388608" in capfd.readouterr().err


def test_a_function_gives_what_it_gave_and_is_compiled_once(monkeypatch):
    compiled = []
    count = lambda lowered: compiled.append(lowered) or compile_in_blocks(lowered)  # noqa: E731
    monkeypatch.setattr(host_memory, "compile_in_blocks", count)
    function = in_blocks(gradient, "cpu")
    for seed in range(3):
        x = jax.random.normal(jax.random.key(seed), (32, 16))
        np.testing.assert_array_equal(function(x), gradient(x))
    assert len(compiled) == 1


def test_only_cpus_need_it():
    assert in_blocks(gradient, "tpu") is gradient
