"""What start-up makes of a machine: facts in, decision out; nothing is started."""

import pytest

from imagen_jax.errors import UsageError
from imagen_jax.parallel.machine import (
    DistributedFlags,
    Machine,
    missing_accelerator,
    start_arguments,
)

SRUN = {"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-4]", "SLURM_PROCID": "2"}
BARE = {"gpu": False, "tpu": False}


def arguments(environ=None, flags=None, **found):
    machine = Machine(environ=environ or {}, **{**BARE, **found})
    return start_arguments(flags or DistributedFlags(), machine)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, {}),
        ({}, {"gpu": True}),
        ({"SLURM_NTASKS": "1"}, {}),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node1"}, {"gpu": True}),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, {"tpu": True}),
        ({"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_HOSTNAMES": "a,b"}, {"tpu": True}),
        ({"TPU_SKIP_MDS_QUERY": "1"}, {"tpu": True}),
        ({"JAX_PLATFORMS": "cpu"}, {"tpu": True}),
    ],
)
def test_a_process_that_is_alone_starts_nothing(environ, found):
    assert arguments(environ, **found) is None


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        (SRUN, {"gpu": True}),
        (SRUN, {}),
        ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {"tpu": True}),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, {"tpu": True}),
        ({}, {"tpu": True}),
        ({"JAX_PLATFORMS": "tpu,cpu"}, {"tpu": True}),
    ],
    ids=["slurm", "slurm without gpu", "address", "gke", "slices of one host", "vm", "platform"],
)
def test_a_process_of_several_leaves_the_rest_to_jax(environ, found):
    assert arguments(environ, **found) == {}


def test_hosts_may_be_listed_in_a_file(tmp_path):
    (tmp_path / "hosts").write_text("a:8471,b:8471\n")
    environ = {"TPU_PROCESS_ADDRESSES_PATH": str(tmp_path / "hosts")}
    assert arguments(environ, tpu=True) == {}


def test_flags_come_before_any_cluster():
    flags = DistributedFlags(coordinator="host:1234", num_processes=2, process_id=1)
    assert arguments(SRUN, flags) == {
        "coordinator_address": "host:1234",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"process_id": None}, "go together; give all three"),
        ({"num_processes": None}, "go together; give all three"),
        ({"coordinator": ""}, "go together; give all three"),
        ({"coordinator": "host"}, "coordinator is 'host'; it must be HOST:PORT"),
        ({"coordinator": "host:http"}, "coordinator is 'host:http'"),
        ({"coordinator": "host:70000"}, "coordinator is 'host:70000'"),
        ({"process_id": 2}, "process-id is 2; of 2 processes"),
        ({"process_id": -1}, "process-id is -1"),
    ],
)
def test_flags_that_cannot_be_are_refused(changes, says):
    whole = {"coordinator": "host:1234", "num_processes": 2, "process_id": 1}
    with pytest.raises(UsageError, match=says):
        arguments({}, DistributedFlags(**{**whole, **changes}))


def test_tasks_that_srun_did_not_start_are_missed():
    with pytest.raises(UsageError, match="SLURM_NTASKS is 4, but this process was not started by"):
        arguments({"SLURM_NTASKS": "4"})


@pytest.mark.parametrize(
    ("platforms", "backend", "found", "says"),
    [
        ("", "cpu", {}, None),
        ("", "gpu", {"gpu": True}, None),
        ("", "cpu", {"gpu": True}, "has an NVIDIA GPU"),
        ("", "cpu", {"tpu": True}, "has TPU chips"),
        ("cpu", "cpu", {"tpu": True, "gpu": True}, None),
        ("cpu,cuda", "cpu", {"gpu": True}, None),
        ("cuda,cpu", "cpu", {}, "JAX_PLATFORMS is 'cuda,cpu'"),
        ("tpu,cpu", "tpu", {"tpu": True}, None),
    ],
)
def test_a_cpu_in_the_place_of_an_accelerator_is_noticed(platforms, backend, found, says):
    problem = missing_accelerator(platforms, backend, Machine(environ={}, **{**BARE, **found}))
    assert problem is None if says is None else says in problem
