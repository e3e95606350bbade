"""Start-up on this machine: loud where it fails, silent where there is nothing to do."""

import os
import socket
import subprocess
import sys

import jax
import pytest
from scripts import ROOT

from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel.machine import DistributedFlags, Machine

ALONE = Machine(environ={}, tpu=False, gpu=False)
SLURM = Machine(
    environ={"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "node[1-2]"}, tpu=False, gpu=False
)


def test_a_laptop_starts_nothing(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("it was started"))
    distributed.start(DistributedFlags(), ALONE)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("coordinator_address should be defined."),
        RuntimeError("DEADLINE_EXCEEDED: Barrier timed out.\nMore."),
        OSError("metadata.google.internal: name not known"),
    ],
)
def test_processes_that_do_not_find_each_other_say_so_in_one_sentence(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UsageError) as caught:
        distributed.start(DistributedFlags(), SLURM)
    first_line = str(error).partition("\n")[0].rstrip(".")
    assert f"did not find each other: {first_line}; give" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_whose_others_never_come_ends_with_a_sentence(number):
    """JAX alone would abort with a stack trace of C++."""
    process = start_alone(number)
    if "in use" in process.stderr:  # Another program was given process 0's port.
        process = start_alone(number)
    assert process.returncode == 2, process.stderr
    assert "error: The other processes of this run did not come within 2 seconds" in process.stderr
    assert "stack trace" not in process.stderr


def start_alone(number):
    """One of two processes, which waits for the other for two seconds."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        if number == 0:
            taken.close()  # Process 0 listens there; to process 1 nothing must.
        return run_program(f"""
from imagen_jax.parallel import distributed
from imagen_jax.parallel.machine import DistributedFlags
distributed._CONNECT_SECONDS = 2
flags = DistributedFlags(coordinator="127.0.0.1:{port}", num_processes=2, process_id={number})
distributed.start(flags)
""")


def run_program(program):
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_the_cpu_is_no_substitute_unless_allowed(monkeypatch):
    monkeypatch.setattr(distributed, "missing_accelerator", lambda *_: "This machine has a TPU")
    with pytest.raises(UsageError, match="has a TPU; .* pass --allow-cpu"):
        distributed.require_accelerator(allow_cpu=False, machine=ALONE)
    distributed.require_accelerator(allow_cpu=True, machine=ALONE)


def test_cpu_machines_just_run():
    distributed.require_accelerator(allow_cpu=False, machine=ALONE)


@pytest.mark.parametrize("script", ["train.py", "sample.py"])
def test_scripts_refuse_a_cpu_that_was_not_asked_for(script, tmp_path):
    """JAX_PLATFORMS names a platform that no plugin here has."""
    arguments = {
        "train.py": ["tiny_64", "--workdir", str(tmp_path / "run")],
        "sample.py": ["a red apple", "--out", str(tmp_path / "out")],
    }
    process = subprocess.run(
        [sys.executable, ROOT / script, *arguments[script]],
        env=os.environ | {"JAX_PLATFORMS": "rocm", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 2, process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "JAX_PLATFORMS is 'rocm'" in errors[0]
    assert "--allow-cpu" in errors[0] and "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_computes_in_float32_whatever_jax_enable_x64_says():
    jax.config.update("jax_enable_x64", True)
    try:
        distributed.require_accelerator(allow_cpu=True)
        assert jax.numpy.zeros(1).dtype == jax.numpy.float32
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_run_adds_arrays_of_other_kinds_and_ranks_whatever_jax_is_told():
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    try:
        distributed.require_accelerator(allow_cpu=True)
        summed = jax.numpy.zeros((2, 1)) + jax.numpy.ones(1, "int32")
        assert summed.shape == (2, 1) and summed.dtype == jax.numpy.float32
    finally:
        jax.config.update("jax_numpy_dtype_promotion", "standard")
        jax.config.update("jax_numpy_rank_promotion", "allow")
