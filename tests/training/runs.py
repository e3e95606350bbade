"""Whole runs of the training loop on a tiny folder, in this process or in one of their own.

As a script: python runs.py CONFIG.json WORKDIR
"""

import os
import subprocess
import sys
from pathlib import Path

import jax

import imagen_jax
from imagen_jax import config_json
from imagen_jax.config import StageConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.checkpoint import Checkpoints
from imagen_jax.training.loop import Trainer, run


def start_process(config: StageConfig, workdir: Path) -> subprocess.Popen:
    """A run in a process of its own, with this one's devices and settings."""
    path = workdir.with_suffix(".json")
    path.write_text(config_json.to_json(config))
    command = [sys.executable, __file__, str(path), str(workdir)]
    folders = [Path(imagen_jax.__file__).parents[1], Path(__file__).parents[1]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def saved(config: StageConfig, workdir: Path):
    """The newest state in a training directory, on the host."""
    trainer = Trainer(config, make_mesh(config.mesh))
    checkpoints = Checkpoints(workdir)
    state = jax.device_get(checkpoints.restore(trainer.abstract_state))
    checkpoints.close()
    return state


if __name__ == "__main__":
    import conftest  # noqa: F401  its settings

    origin = Path(sys.argv[1])
    run(config_json.from_json(origin.read_bytes(), str(origin)), Path(sys.argv[2]))
