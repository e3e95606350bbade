"""A training directory: config, versions and Orbax checkpoints. All of Orbax is in this file."""

import contextlib
import dataclasses
import gc
import importlib.metadata
import json
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

import imagen_jax
from imagen_jax import config_json
from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError, reason
from imagen_jax.files import AnyPath, absolute, write_text
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import parameter_shardings, with_shardings
from imagen_jax.stage import Params, init_params
from imagen_jax.training.step import TrainState

_MAY_CHANGE = {
    "training": {
        "num_steps", "log_every", "checkpoint_every", "keep_checkpoints", "sample_every",
        "sample_prompts", "eval_every", "eval_batches", "max_skipped_in_a_row",
    },
    "data": {
        "data_dir", "num_workers", "max_broken_share", "embeddings", "eval_source", "eval_split",
    },
    "mesh": {"fsdp", "spatial"},
}  # fmt: skip
"""Fields that change nothing about what is learned, so that a resumed run may change them."""
_DAMAGE = (ValueError, KeyError, OSError, TypeError)
_FORBIDDEN = "PERMISSION_DENIED"
"""So begins what TensorStore says, in a ValueError, of a file that it may not read."""
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")


def package_versions() -> dict[str, str]:
    """Of the packages that a result depends on."""
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"imagen-jax": imagen_jax.__version__, **installed}


def claim_directory(workdir: AnyPath, config: StageConfig) -> None:
    """Makes `workdir` the training directory of `config`, or checks that it already is.

    Every process checks before the first one writes; when this returns, all can read it.

    Raises:
        UsageError: it belongs to another stage or config, and names the first field that
            differs; or it cannot be written to.
    """
    if (workdir / "config.json").exists():
        _require_same(read_config(workdir), config, workdir)
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise UsageError(
            f"{workdir} is not empty and holds no config.json; choose a new directory."
        )
    distributed.wait_for_all("checked the training directory")
    if distributed.leads():
        write_text(workdir / "config.json", config_json.to_json(config))
        write_text(workdir / "versions.json", json.dumps(package_versions(), indent=2))
    distributed.wait_for_all("claimed the training directory")


def is_training_directory(path: AnyPath) -> bool:
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def read_config(workdir: AnyPath) -> StageConfig:
    """The config of a training directory."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UsageError(f"{workdir} is not a training directory: it holds no config.json.")
    return config_json.from_json(path.read_bytes(), str(path))


def _require_same(stored: StageConfig, config: StageConfig, workdir: AnyPath) -> None:
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

    def __init__(self, workdir: AnyPath, keep: int | None = None):
        self.directory = absolute(workdir / "checkpoints")  # Orbax refuses relative ones.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=keep is not None)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts to save; the arrays may be donated once this returns."""
        rest = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
        with self._writing():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(rest),
                    ema=ocp.args.StandardSave(state.ema),
                ),
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Also what failed in the background comes out here, at the next save or at the end."""
        try:
            yield
        except Exception as error:
            if not _is_of_files(error):
                raise
            raise UsageError(
                f"A checkpoint in {self.directory} cannot be written: {reason(error)}."
            ) from error

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, placed as `abstract` says."""
        rest = {"step": abstract.step, "params": abstract.params, "opt_state": abstract.opt_state}
        restored = self._read(
            state=ocp.args.StandardRestore(rest),
            ema=ocp.args.StandardRestore(abstract.ema),
        )
        return TrainState(ema=restored.ema, **restored.state)

    def restore_ema(self, abstract: Params) -> Params:
        """The newest EMA parameters of the networks in `abstract` alone, as it says."""
        how = ocp.checkpoint_utils.construct_restore_args(abstract)
        return self._read(ema=ocp.args.PyTreeRestore(abstract, how, partial_restore=True)).ema

    def _read(self, **items: Any) -> Any:
        step = self.latest_step()
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Of many classes: see `_is_of_files`.
            if not _is_of_files(error):
                raise
            said = reason(error)
            forbidden = isinstance(error, PermissionError) or said.startswith(_FORBIDDEN)
        _drop_unawaited_reads()
        checkpoint = self.directory / str(step)
        if forbidden:
            raise UsageError(f"The checkpoint {checkpoint} cannot be read: {said}.")
        raise UsageError(
            f"The checkpoint {checkpoint} is damaged or incomplete ({said}); "
            "move it away to go on from the one before."
        )

    def close(self) -> None:
        """Waits for the last save."""
        with self._writing():
            self._manager.close()


def _is_of_files(error: Exception) -> bool:
    """Whether Orbax raises it of a file.

    What a truncated or missing file raises depends on which file it is; of an array that is
    sharded, Orbax raises an Exception without a class of its own.
    """
    return type(error) is Exception or isinstance(error, _DAMAGE)


def _drop_unawaited_reads() -> None:
    """Collects what Orbax was about to read when it failed.

    Python would warn of each of them, whenever it happens to collect it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        gc.collect()


def load_directory(workdir: AnyPath, mesh: jax.sharding.Mesh) -> tuple[StageConfig, Params]:
    """Config and newest EMA parameters of a training directory."""
    config = read_config(workdir)
    abstract = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return config, load_ema(workdir, abstract, mesh)


def load_ema(workdir: AnyPath, abstract: Params, mesh: jax.sharding.Mesh) -> Params:
    """The newest EMA parameters of the networks in `abstract`, in its dtypes, on the mesh."""
    abstract = with_shardings(abstract, parameter_shardings(abstract, mesh))
    require_checkpoint(workdir)
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.restore_ema(abstract)


def require_checkpoint(workdir: AnyPath) -> None:
    """Raises a UsageError for a training directory without any checkpoint."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        if checkpoints.latest_step() is None:
            raise UsageError(f"{workdir} holds no checkpoint yet.")
