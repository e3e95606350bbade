"""A training directory: config, versions and Orbax checkpoints. All of Orbax is in this file."""

import contextlib
import dataclasses
import gc
import importlib.metadata
import json
import os
import warnings
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

import imagen_jax
from imagen_jax import config_json
from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import parameter_shardings, with_shardings
from imagen_jax.stage import Params, init_params
from imagen_jax.training.step import TrainState

_MAY_CHANGE = {
    "training": {
        "num_steps", "log_every", "checkpoint_every", "keep_checkpoints", "sample_every",
        "sample_prompts",
    },
    "data": {"data_dir", "num_workers"},
    "mesh": {"fsdp", "spatial"},
}  # fmt: skip
"""Fields that change nothing about what is learned, so that a resumed run may change them."""
_DAMAGE = (ValueError, KeyError, OSError, TypeError)
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def package_versions() -> dict[str, str]:
    """Of the packages that a result depends on."""
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"imagen-jax": imagen_jax.__version__, **installed}


def claim_directory(workdir: Path, config: StageConfig) -> None:
    """Makes `workdir` the training directory of `config`, or checks that it already is.

    Every process checks before the first one writes; when this returns, all can read it.

    Raises:
        UsageError: it belongs to another stage or config; names the first field that differs.
    """
    if (workdir / "config.json").exists():
        _require_same(read_config(workdir), config, workdir)
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise UsageError(
            f"{workdir} is not empty and holds no config.json; choose a new directory."
        )
    distributed.wait_for_all("checked the training directory")
    if distributed.leads():
        _write_claim(workdir, config)
    distributed.wait_for_all("claimed the training directory")


def _write_claim(workdir: Path, config: StageConfig) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--workdir is {workdir}; it cannot be made: {error.strerror}.") from error
    write_text(workdir / "config.json", config_json.to_json(config))
    write_text(workdir / "versions.json", json.dumps(package_versions(), indent=2))


def is_training_directory(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def read_config(workdir: Path) -> StageConfig:
    """The config of a training directory."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UsageError(f"{workdir} is not a training directory: it holds no config.json.")
    return config_json.from_json(path.read_bytes(), str(path))


def _require_same(stored: StageConfig, config: StageConfig, workdir: Path) -> None:
    for name, was in dataclasses.asdict(stored).items():
        now = dataclasses.asdict(config)[name]
        if isinstance(was, dict):
            ignored = _MAY_CHANGE.get(name, set())
            fields = [field for field in {**was, **now} if field not in ignored]
            differing = [f for f in fields if was.get(f) != now.get(f)]
            if differing:
                name, was, now = (
                    f"{name}.{differing[0]}",
                    was.get(differing[0]),
                    now.get(differing[0]),
                )
            else:
                continue
        if was != now:
            raise UsageError(
                f"{workdir} was trained with {name} = {was!r} and this run has {now!r}; "
                "resume with the same value or choose a new directory."
            )


class Checkpoints:
    """The checkpoints of one training directory; saving goes on in the background.

    A checkpoint is {state: step, params, opt_state; ema}. The EMA is an item of its own, so
    that sampling reads nothing else. All processes save and restore together, each its parts
    of the arrays; any number of processes reads what another number saved. The step is also
    where the data goes on.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        self.directory = (workdir / "checkpoints").resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=keep is not None)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts to save; the arrays may be donated once this returns."""
        rest = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(rest),
                ema=ocp.args.StandardSave(state.ema),
            ),
        )

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, placed as `abstract` says."""
        rest = {"step": abstract.step, "params": abstract.params, "opt_state": abstract.opt_state}
        restored = self._read(
            state=ocp.args.StandardRestore(rest),
            ema=ocp.args.StandardRestore(abstract.ema),
        )
        return TrainState(ema=restored.ema, **restored.state)

    def restore_ema(self, abstract: Params) -> Params:
        """The newest EMA parameters alone."""
        return self._read(ema=ocp.args.StandardRestore(abstract)).ema

    def _read(self, **items: Any) -> Any:
        step = self.latest_step()
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        # What a truncated or missing file raises depends on which file it is; of an array that
        # is sharded, Orbax raises an Exception without a class of its own.
        except Exception as error:
            if type(error) is not Exception and not isinstance(error, _DAMAGE):
                raise
            reason = str(error).strip().partition("\n")[0] or repr(error)
        _drop_unawaited_reads()
        raise UsageError(
            f"The checkpoint {self.directory / str(step)} is damaged or incomplete ({reason}); "
            "move it away to go on from the one before."
        )

    def close(self) -> None:
        """Waits for the last save."""
        self._manager.close()


def _drop_unawaited_reads() -> None:
    """Collects what Orbax was about to read when it failed.

    Python would warn of each of them, whenever it happens to collect it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        gc.collect()


def load_directory(workdir: Path, mesh: jax.sharding.Mesh) -> tuple[StageConfig, Params]:
    """Config and newest EMA parameters of a training directory."""
    config = read_config(workdir)
    abstract = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    abstract = with_shardings(abstract, parameter_shardings(abstract, mesh))
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        if checkpoints.latest_step() is None:
            raise UsageError(f"{workdir} holds no checkpoint yet.")
        return config, checkpoints.restore_ema(abstract)
