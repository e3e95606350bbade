"""How much memory of the host T5-XXL takes, on a checkpoint of its true shapes. Linux only.

    pytest -m slow -s tests/weights/test_t5_memory.py

prints the figures of docs/figures.md. It writes 9.5 GB below the temporary directory (and for the
conversion 9.5 GB more) and takes them away again.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from imagen_jax.config.network import T5_PRESETS
from imagen_jax.networks import abstract_frozen_encoder
from imagen_jax.weights.t5_names import t5_names

ROOT = Path(__file__).parents[2]
XXL = dataclasses.replace(T5_PRESETS["xxl"], dtype="bfloat16")
SLACK = 100 * 2**20
"""Blocks of files on their way, and what the allocator keeps."""
PATTERN = np.random.default_rng(0).normal(size=65_521).astype(ml_dtypes.bfloat16)
"""As many numbers as no shape divides."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def stored(path: tuple, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor as the checkpoint has it: other numbers for every path."""
    shape = shape[::-1] if path[-1] == "kernel" else shape
    return np.resize(np.roll(PATTERN, sum(map(ord, str(path)))), shape)


def write_checkpoint(directory: Path) -> None:
    """One shard a tensor, so that one is in memory at a time."""
    config = {"model_type": "t5", "feed_forward_proj": "gated-gelu"} | dataclasses.asdict(XXL)
    (directory / "config.json").write_text(json.dumps(config))
    shapes = {path: x.shape for path, x in flatten_dict(abstract_frozen_encoder(XXL)).items()}
    files = {}
    for number, (name, path) in enumerate(t5_names(XXL).items()):
        files[name] = f"model-{number:05}.safetensors"
        tensor = {name: stored(path, shapes[path])}
        safetensors.numpy.save_file(tensor, directory / files[name])
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("xxl")
    write_checkpoint(directory)
    yield directory
    shutil.rmtree(directory)


COMMON = """
import sys
from pathlib import Path
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
from flax.traverse_util import flatten_dict
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.config import MeshConfig
from imagen_jax.weights.t5_names import convert_t5, load_t5
from test_t5_memory import XXL, stored
directory = Path(sys.argv[1])

def resident(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))

mesh = make_mesh(MeshConfig())
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # Starts the peak anew.
"""
LOAD = """
params = flatten_dict(load_t5(directory, XXL, mesh))
print(before, resident("VmHWM"), sum(x.nbytes for x in params.values()))
for path, x in params.items():
    assert str(x.dtype) == "bfloat16"
    assert x.size < 2**14 or x.addressable_shards[0].data.size == x.size // 4
    wanted = stored(path, x.shape)
    wanted = wanted.T if path[-1] == "kernel" else wanted
    for shard in x.addressable_shards:
        ours, theirs = np.asarray(shard.data), wanted[shard.index]
        np.testing.assert_array_equal(ours[:2].view("u2"), theirs[:2].view("u2"))
        np.testing.assert_array_equal(ours[-2:].view("u2"), theirs[-2:].view("u2"))
"""
CONVERT = """
convert_t5(directory, directory / "out.safetensors", "bfloat16")
print(before, resident("VmHWM"), 0)
(directory / "out.safetensors").unlink()
"""


@pytest.mark.parametrize(("what", "script"), [("load", LOAD), ("convert", CONVERT)])
def test_the_host_holds_the_result_and_one_tensor(directory, what, script):
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script, str(directory)], capture_output=True, text=True,
        env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "JAX_PLATFORMS": "cpu"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, peak, result = map(int, done.stdout.split())
    largest = XXL.vocab_size * XXL.d_model * 2
    mb = lambda size: f"{size / 1e6:,.0f} MB"  # noqa: E731
    print(
        f"\n{what} T5-XXL in bfloat16: peak {mb(peak)} of resident memory, {mb(before)} of it "
        f"before it began; the result {mb(result)}, the largest tensor {mb(largest)}"
    )
    assert result in (0, 2 * 4_762_310_656)
    assert peak - before < result + largest + SLACK
