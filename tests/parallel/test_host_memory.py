"""The blocks that a training step's memory comes in on CPUs, and that steps use them again."""

import platform
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import ROOT

from imagen_jax.parallel import host_memory
from imagen_jax.parallel.host_memory import compile_in_blocks, in_blocks

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
    count = lambda *given: compiled.append(given) or compile_in_blocks(*given)  # noqa: E731
    monkeypatch.setattr(host_memory, "compile_in_blocks", count)
    function = in_blocks(gradient, "cpu")
    for seed in range(3):
        x = jax.random.normal(jax.random.key(seed), (32, 16))
        np.testing.assert_array_equal(function(x), gradient(x))
    assert len(compiled) == 1


@pytest.mark.parametrize(("option", "compilations"), [("xla_cpu_use_xnnpack", 1), ("no_such", 2)])
def test_options_that_fail_are_left_out(option, compilations, monkeypatch):
    told, own = [], jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile",
        lambda lowered, compiler_options: (
            told.append(compiler_options) or own(lowered, compiler_options=compiler_options)
        ),
    )  # fmt: skip
    x = jnp.ones((32, 16))
    compiled = in_blocks(gradient, "cpu", {option: False})(x)
    np.testing.assert_allclose(compiled, gradient(x), rtol=1e-6)
    assert [option in options for options in told] == [True, False][:compilations]


def test_only_cpus_need_it():
    assert in_blocks(gradient, "tpu") is gradient


def said_by(script: str, *arguments: str) -> str:
    """A process of its own: once JAX's backend has started it is too late for some settings."""
    # No settings of this process's: XLA's would make several devices of one CPU.
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=True
    ).stdout


CALLS = """
import resource, sys
import jax, jax.numpy as jnp
from imagen_jax.parallel.host_memory import in_blocks, run_where_called
run_where_called()
gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ x.T) @ x))))
call, x, faults = in_blocks(gradient, "cpu"), jnp.ones((int(sys.argv[1]), 256)), []
for _ in range(24):
    jax.block_until_ready(call(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
size = gradient.lower(x).compile().memory_analysis().temp_size_in_bytes
print(size // resource.getpagesize(), (faults[-1] - faults[7]) / 16)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="what other libraries keep is unknown"
)
@pytest.mark.parametrize("rows", [2048, 4096])
def test_calls_use_memory_again(rows):
    """Blocks of 20 MiB, and of 80; a call that has new memory has a page fault for each page.

    By chance a later call has some all the same, hence the mean of many.
    """
    pages, faults_of_a_call = map(float, said_by(CALLS, str(rows)).split())
    assert faults_of_a_call < pages / 4


TRAINS = """
import sys
import jax, jax.numpy as jnp
from imagen_jax.cli import train
from imagen_jax.training import loop
def run(*arguments, **settings):
    multiply = jax.jit(lambda x: x @ x @ x @ x)
    x = jax.block_until_ready(multiply(jnp.ones((2048, 2048))))
    print(multiply(x).is_ready())
loop.run = run
sys.argv[1:] = ["tiny_64", "--workdir", "nowhere"]
train.main()
"""


@pytest.mark.slow
def test_training_has_its_programs_run_where_they_are_called():
    assert said_by(TRAINS) == "True\n"
