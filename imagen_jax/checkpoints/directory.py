"""A training directory: whose it is, and what of its config a resumed run may change."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import imagen_jax
from imagen_jax.config import StageConfig, json_form
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.storage.digests import sealed, unsealed
from imagen_jax.storage.files import AnyPath, beside_logs, check_writable, write_text

_FREE = {
    "training.num_steps",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.snapshot_every",
    "training.sample_every",
    "training.sample_prompts",
    "training.eval_every",
    "training.eval_batches",
    "training.max_skipped_in_a_row",
    "data.data_dir",
    "data.num_workers",
    "data.max_broken_share",
    "data.embeddings",
    "data.eval_source",
    "data.eval_split",
    "mesh.fsdp",
    "mesh.spatial",
    "adapter.base",
    "distillation.teacher",
}
"""Fields that change nothing about what is learned."""
_BY_FLAG = ("optimizer.", "training.", "diffusion.", "data.", "sampling.")
"""So begin fields that change what is learned and leave the networks as they are."""
_FROM_THE_FIRST_STEP = {"optimizer.power_ema"}
_ALSO_BY_FLAG = {"text_encoder.source", "unet.dtype", "unet.remat"}
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
_CONFIG = "config.json"


def package_versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"imagen-jax": imagen_jax.__version__, **installed}


def is_training_directory(path: AnyPath) -> bool:
    return (path / _CONFIG).is_file() and (path / "checkpoints").is_dir()


def read_config(workdir: AnyPath) -> StageConfig:
    """The config of a training directory."""
    path = workdir / _CONFIG
    if not path.is_file():
        raise UsageError(f"{workdir} is not a training directory: it holds no {_CONFIG}.")
    return json_form.from_json(_checked(path), str(path))


def _checked(path: AnyPath) -> bytes | str:
    """The text of a JSON file without its digest; what is no JSON is for others to say."""
    text = path.read_bytes()
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return json.dumps(unsealed(values, str(path))) if isinstance(values, dict) else text


def check_directory(
    workdir: AnyPath, config: StageConfig, allow_change: Collection[str] = ()
) -> None:
    """Sees that `workdir` is the training directory of `config`, or can become it.

    Every process checks before one of them goes on.

    Args:
        workdir: the directory.
        config: of the run.
        allow_change: fields ("training.batch_size") that may differ from the config that is
            there, which then becomes `config`.

    Raises:
        UsageError: it belongs to another stage or config, and names the first field that
            differs; a field of `allow_change` may not change or is none; or the directory
            cannot be written to.
    """
    allowed = {_changeable(name, config) for name in allow_change}
    if isinstance(workdir, Path):
        said = f"The training directory is {workdir}"
        distributed.leader_does(lambda: check_writable(workdir, said))
    if (workdir / _CONFIG).exists():
        _require_same(read_config(workdir), config, allowed, workdir)
    elif workdir.is_dir():
        _require_new(workdir)
    distributed.wait_for_all("checked the training directory")


def claim_directory(
    workdir: AnyPath, config: StageConfig, allow_change: Collection[str] = ()
) -> None:
    """Makes `workdir` the training directory of `config`, or checks that it already is.

    When this returns, all processes can read it. Arguments and errors are those of
    `check_directory`.
    """
    check_directory(workdir, config, allow_change)
    if distributed.leads():
        for path in filter(_is_left_over, workdir.iterdir() if workdir.is_dir() else ()):
            path.unlink()
        values = json.loads(json_form.to_json(config))
        write_text(workdir / _CONFIG, json.dumps(sealed(values), indent=2))
        write_text(workdir / "versions.json", json.dumps(package_versions(), indent=2))
    distributed.wait_for_all("claimed the training directory")


def _require_new(workdir: AnyPath) -> None:
    """Refuses a directory that holds more than what a machine or a shell leaves in a new one."""
    if other := beside_logs(workdir):
        raise UsageError(
            f"{workdir} is not empty and holds no {_CONFIG}, but {other}; choose a new "
            "directory, or one that holds nothing but logs."
        )


def _is_left_over(path: AnyPath) -> bool:
    """Whether a killed run was writing this file, by `files.replacing`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _changeable(name: str, config: StageConfig) -> str:
    name = name.removeprefix("--").replace("-", "_")
    if name not in _fields(config):
        raise UsageError(f"--allow-change {name}: a config has no such field.")
    if not (_by_flag(name) or name in _FREE):
        raise UsageError(
            f"--allow-change {name}: networks and pictures of a run stay as they are, and so does "
            "what it averages; start a new one with --init-from."
        )
    return name


def _by_flag(name: str) -> bool:
    changeable = name.startswith(_BY_FLAG) or name in _ALSO_BY_FLAG
    return changeable and name not in _FROM_THE_FIRST_STEP


def _fields(config: StageConfig) -> dict[str, Any]:
    """ "training.batch_size" -> its value, and so on."""
    values = {}
    for name, value in dataclasses.asdict(config).items():
        inner = value if isinstance(value, dict) else {None: value}
        values |= {f"{name}.{key}" if key else name: x for key, x in inner.items()}
    return values


def _require_same(
    stored: StageConfig, config: StageConfig, allowed: Collection[str], workdir: AnyPath
) -> None:
    then, now = _fields(stored), _fields(config)
    for name in then | now:
        if then.get(name) == now.get(name) or name in _FREE or name in allowed:
            continue
        raise UsageError(
            f"{workdir} was trained with {name} = {then.get(name)!r} and this run has "
            f"{now.get(name)!r}; resume with the same value"
            + (f", pass --allow-change {name}" if _by_flag(name) else "")
            + " or choose a new directory."
        )
