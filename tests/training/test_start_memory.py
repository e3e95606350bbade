"""How much memory a run takes that starts, goes on, or starts from another stage."""

import contextlib
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tiny

from imagen_jax.checkpoints import checkpoint
from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import claim_directory
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.start import abstract_state, from_checkpoint

TESTS = Path(__file__).parents[1]
MB = 2**20


def size_of(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_a_run_that_goes_on_holds_no_array_twice(tmp_path, monkeypatch):
    """Neither while it reads them and sums them up, nor later."""
    config = tiny.stage()
    claim_directory(tmp_path, config)
    with contextlib.closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.save(jax.tree.map(jax.numpy.asarray, tiny.state(config, 3)), config, 24)
    gc.collect()
    before, held = size_of(jax.live_arrays()), []
    checksums = checkpoint.checksums

    def note(item):
        held.append(size_of(jax.live_arrays()) - before)
        return checksums(item)

    monkeypatch.setattr(checkpoint, "checksums", note)
    mesh = make_mesh(config.mesh)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        start = from_checkpoint(checkpoints, config, mesh, abstract_state(config, mesh))
    size = size_of(start.state)
    assert len(held) == 3 and max(held) <= size
    assert size_of(jax.live_arrays()) - before <= size


BEGINNINGS = ("start", "go on", "from a run", "from a file")

SCRIPT = """
import contextlib, sys
from pathlib import Path
import jax
import numpy as np
import tiny
from imagen_jax.config import UNetConfig
from imagen_jax.parallel.mesh import global_batch, make_mesh, place_parameters
from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import claim_directory
from imagen_jax.training.trainer import Trainer
from imagen_jax.training.start import from_checkpoint, from_stage
from imagen_jax.checkpoints.weights import load_directory
from imagen_jax.weights.stage_file import save_stage_file

how, directory = sys.argv[1], Path(sys.argv[2])
workdir, file = directory / "run", directory / "stage.safetensors"
unet = UNetConfig(
    embed_dim=160, channel_mult=(1, 4), num_res_blocks=(1, 2), attention_resolutions=()
)
config = tiny.stage(unet=unet)
key, batch = jax.random.key(0), tiny.batch(config)

def resident(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))

def restore(config, workdir, trainer):
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return from_checkpoint(checkpoints, config, trainer.mesh, trainer.abstract_state).state

# What libraries take when they are first used is no part of a beginning: a run saves, too.
little, warm = Trainer(tiny.stage(), make_mesh(config.mesh)), directory / f"warm {how}"
claim_directory(warm, little.config)
with contextlib.closing(Checkpoints(warm, keep=1)) as checkpoints:
    checkpoints.save(little.init(key), little.config, 8)
restore(little.config, warm, little)

trainer = Trainer(config, make_mesh(config.mesh))
abstract = trainer.abstract_state
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # Starts the peak anew.
if how in ("prepare", "start"):
    state = trainer.init(key)
elif how == "go on":
    state = restore(config, workdir, trainer)
else:
    stage = workdir if how == "from a run" else file
    state = trainer.start_from(from_stage(config, abstract.params, stage, None))
jax.block_until_ready(state)
began = resident("VmHWM")
count = sum(x.size for x in jax.tree.leaves(state.params))
size = sum(x.nbytes for x in jax.tree.leaves(state))
state, _ = trainer.step(state, {}, global_batch(batch, trainer.mesh), key)
jax.block_until_ready(state)
print(before, began, resident("VmHWM"), size, count)
if how == "prepare":
    rng = np.random.default_rng(0)  # Numbers that do not compress, as a trained state's.
    noise = lambda x: x if x.ndim == 0 else rng.standard_normal(x.shape, np.float32)
    state = jax.tree.map(noise, state)
    state = place_parameters(state, trainer.shardings)
    claim_directory(workdir, config)
    with contextlib.closing(Checkpoints(workdir, keep=1)) as checkpoints:
        checkpoints.save(state, config, 8)
    save_stage_file(file, *load_directory(workdir, trainer.mesh), "float32")
    jax.block_until_ready(trainer.start_from(state.params))
"""


@pytest.fixture
def directory(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)


def measure(how: str, directory: Path) -> list[int]:
    """In a process of its own, as peaks are a process's.

    What is compiled is found on disk by all but the first, so that no compiler's memory counts.
    """
    env = os.environ | {
        "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(directory / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how, str(directory)], capture_output=True, text=True,
        env=env, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_beginning_takes_more_memory_than_another(directory):
    """With `-s` it prints the figures of docs/figures.md."""
    measure("prepare", directory)
    peaks = {}
    for how in BEGINNINGS:
        before, began, stepped, size, count = measure(how, directory)
        print(
            f"\n{count / 1e6:.0f}M parameters, {how}: the state is {size / MB:,.0f} MiB, the peak "
            f"until it is there {(began - before) / MB:,.0f} MiB, with a step "
            f"{(stepped - before) / MB:,.0f} MiB; {before / MB:,.0f} MiB were there before"
        )
        peaks[how] = began - before, stepped - before
        assert began - before >= size
    for how in BEGINNINGS:
        assert all(x <= 1.02 * y for x, y in zip(peaks[how], peaks["start"], strict=True)), how
