"""Whole runs of the training loop on a tiny folder, in this process or in ones of their own."""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

import conftest
import jax

import imagen_jax
from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.state import TrainState
from imagen_jax.config import StageConfig, json_form
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.loop import run
from imagen_jax.training.start import abstract_state

# Python 3.11's fork server does not know the paths that pytest has added.
os.environ["PYTHONPATH"] = os.pathsep.join(
    map(str, (Path(conftest.__file__).parent, Path(imagen_jax.__file__).parents[1]))
)
# Forked from a process that has imported everything and started nothing: it starts at once.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["conftest", "imagen_jax.training.loop"])


def start_process(
    config: StageConfig, workdir: Path, largest_file: int = resource.RLIM_INFINITY
) -> multiprocessing.Process:
    """A run in a process of its own, with this one's settings; `log(workdir)` is what it says.

    It cannot write a file of more than `largest_file` bytes.
    """
    arguments = (json_form.to_json(config), workdir, largest_file)
    process = _CONTEXT.Process(target=_run, args=arguments)
    process.start()
    return process


def _run(config: str, workdir: Path, largest_file: int) -> None:
    conftest.pytest_configure()
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    # Python would keep a module's bytecode cut short, and later processes could not import it.
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # Then writing fails as on a full disk.
    with (
        workdir.with_suffix(".log").open("a", buffering=1) as log,
        contextlib.redirect_stderr(log),
        exit_on_usage_error(),
    ):
        try:
            run(json_form.from_json(config, "config"), workdir)
        except UsageError:
            raise
        except Exception:
            traceback.print_exc()
            sys.exit(1)


def log(workdir: Path) -> str:
    return workdir.with_suffix(".log").read_text()


def saved(config: StageConfig, workdir: Path) -> TrainState:
    """The newest whole state in a training directory, on the host."""
    abstract = abstract_state(config, make_mesh(config.mesh))
    items = {name: getattr(abstract, name) for name in ("params", "ema", "opt_state")}
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        restored = checkpoints.restore(lambda _: items)
    return TrainState(step=restored.step, **jax.device_get(restored.items))


def steps(workdir: Path) -> list[int]:
    """Of all checkpoints, from the newest."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.steps()
