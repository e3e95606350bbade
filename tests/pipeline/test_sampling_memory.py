"""How much memory a cascade takes: its largest network, not the sum. Linux only.

    pytest -m slow -s tests/test_sampling_memory.py

prints the figures of docs/figures.md. It writes 3.4 GB below the temporary directory.
"""

import os
import subprocess
import sys

import pytest
import tiny
from scripts import ROOT

from imagen_jax.weights.stage_file import save_stage_file

SLACK = 400 * 2**20
"""Compilers and their programs, pictures, and weights as a convolution packs them."""
PROMPT_FREE = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""What is freed goes back to the system at once, where glibc would keep it for later."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

WIDE_UNET = {"embed_dim": 1024, "norm_groups": 32, "head_dim": 64}
WIDE_T5 = {"d_model": 1024, "num_heads": 16, "d_kv": 64, "d_ff": 4096, "num_layers": 4}
SAMPLE = """
import sys
from pathlib import Path
import jax
import numpy as np
from imagen_jax.cli import sample
from imagen_jax.stored.network import StoredNetwork

def resident(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))

np.asarray(jax.jit(lambda x: x + 1)(np.ones(3)))
before, sizes, load = resident("VmRSS"), [], StoredNetwork.load
Path("/proc/self/clear_refs").write_text("5")  # Starts the peak anew.

def weigh(network, mesh):
    params = load(network, mesh)
    sizes.append(sum(x.nbytes for x in jax.tree.leaves(params)))
    return params

StoredNetwork.load = weigh
sample.main()
print("memory", before, resident("VmHWM"), *sizes)
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Three wide networks with an encoder of their own each, in float32."""
    directory = tmp_path_factory.mktemp("wide")
    wide = {"unet": WIDE_UNET, "text_encoder": {"t5": WIDE_T5}}
    configs = {
        "base": tiny.stage(**wide, resolution=8),
        "sr256": tiny.stage(**wide, low_resolution=8, resolution=16),
        "sr1024": tiny.stage(**wide, low_resolution=16, resolution=32),
    }
    for seed, (name, config) in enumerate(configs.items()):
        params = tiny.random_params(config, seed)
        save_stage_file(directory / f"{name}.safetensors", config, params, "float32")
    yield directory
    for path in directory.iterdir():
        path.unlink()


def test_the_peak_is_that_of_the_largest_network(stages, tmp_path):
    flags = [f"--{name}={stages / name}.safetensors" for name in ("base", "sr256", "sr1024")]
    done = subprocess.run(
        [sys.executable, "-c", SAMPLE, "a red apple", *flags, "--steps=1", "--guidance=1",
         f"--out={tmp_path}"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **PROMPT_FREE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, peak, *sizes = map(int, done.stdout.splitlines()[-1].split()[1:])
    mb = lambda size: f"{size / 1e6:,.0f} MB"  # noqa: E731
    print(
        f"\nsix networks of {', '.join(map(mb, sizes))}, {mb(sum(sizes))} in all: peak "
        f"{mb(peak)} of resident memory, {mb(before)} of it before the first was read"
    )
    assert len(sizes) == 6
    assert peak - before < max(sizes) + SLACK < sum(sizes) / 2
