"""How much memory a run takes that starts, goes on, or starts from another stage. Linux only.

    pytest -m slow -s tests/training/test_start_memory.py

prints the figures of docs/training.md.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MB = 2**20
BEGINNINGS = ("start", "go on", "from a run", "from a file")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

SCRIPT = """
import contextlib, sys
from pathlib import Path
import jax
import tiny
from imagen_jax.config import UNetConfig
from imagen_jax.parallel.mesh import global_batch, make_mesh
from imagen_jax.training.checkpoint import Checkpoints, load_directory
from imagen_jax.training.directory import claim_directory
from imagen_jax.training.loop import Trainer
from imagen_jax.training.start import from_checkpoint, from_stage
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

trainer = Trainer(config, make_mesh(config.mesh))
abstract = trainer.abstract_state
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # Starts the peak anew.
if how == "start":
    state = trainer.init(key)
elif how == "go on":
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        state = from_checkpoint(checkpoints, config, trainer.mesh, abstract).state
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
if how == "start":
    claim_directory(workdir, config)
    with contextlib.closing(Checkpoints(workdir, keep=1)) as checkpoints:
        checkpoints.save(state, config, 8)
    save_stage_file(file, *load_directory(workdir, trainer.mesh), "float32")
"""


@pytest.fixture
def directory(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_no_beginning_takes_more_memory_than_another(directory):
    peaks = {}
    for how in BEGINNINGS:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, how, str(directory)], capture_output=True, text=True,
            env={"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "JAX_PLATFORMS": "cpu"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        before, began, stepped, size, count = map(int, done.stdout.split())
        print(
            f"\n{count / 1e6:.0f}M parameters, {how}: the state is {size / MB:,.0f} MiB, the peak "
            f"until it is there {(began - before) / MB:,.0f} MiB, with a step "
            f"{(stepped - before) / MB:,.0f} MiB; {before / MB:,.0f} MiB were there before"
        )
        peaks[how] = began - before, stepped - before
        assert began - before >= size
    for how in BEGINNINGS:
        assert all(x <= 1.02 * y for x, y in zip(peaks[how], peaks["start"], strict=True)), how
