"""Set-up of all tests: eight virtual CPU devices and quick compilation.

The only conftest.py: processes that tests start import it by this name.
"""

import dataclasses
import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path

import jax
import jaxtyping
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

# Before anything starts the backend, which fixes the number of devices.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Tiny networks cost more to compile than to run: unoptimised code takes a fifth of the time,
# and every program that a second run or process compiles again is read from disk.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/imagen-jax-tests").expanduser()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_configure() -> None:
    """The scripts read these too; processes of a cluster that tests start set their own."""
    # Tests that begin with & in a script would ignore Ctrl-C, and so would all that they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["IMAGEN_CACHE_DIR"] = "off"  # A user's own stays as it is.
    for name in list(os.environ):
        if name.startswith(("SLURM_", "JAX_COORDINATOR_")):
            del os.environ[name]


@pytest.fixture
def no_type_checks(monkeypatch):
    """A user's run has none: the configs' own rules must do."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; where it or Playwright is missing, the test is skipped."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not on this machine.")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as tools:
        # As root Chromium starts without its sandbox only.
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[1, 8])
def device_count(request, monkeypatch):
    """On CPUs attention and some convolutions go by whether it is one."""
    monkeypatch.setattr(jax, "device_count", lambda: request.param)


_MOST_MAPS = 20_000
"""Linux refuses a process more than 65,530, and compiling then crashes."""


@pytest.fixture(scope="module", autouse=True)
def programs_are_forgotten_before_there_are_too_many():
    """Each that is compiled maps its code into memory."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


_STEPS = {}
_OF_THE_LOOP = {
    "training": {
        "num_steps", "seed", "log_every", "checkpoint_every", "keep_checkpoints", "sample_every",
        "sample_prompts", "eval_every", "eval_batches", "max_skipped_in_a_row",
    },
    "data": {
        "source", "mixture", "filters", "data_dir", "split", "eval_source", "eval_split",
        "num_workers", "max_broken_share", "label_feature",
    },
}  # fmt: skip
"""Fields that the loop or the data read and no step does."""


def _read_by_the_step(config) -> str:
    """Everything in a config that is not known to be the loop's."""
    values = dataclasses.asdict(config)
    for group, names in _OF_THE_LOOP.items():
        for name in names:
            del values[group][name]
    del values["name"], values["sampling"]
    return repr(values)


@pytest.fixture(autouse=True)
def equal_steps_are_compiled_once(monkeypatch):
    """Half of the time of a tiny run goes into a step that another run has compiled before.

    Runs in processes of their own, and whoever makes a Trainer, compile theirs.
    """
    loop = sys.modules.get("imagen_jax.training.loop")
    if loop is None:
        return

    def make(config, mesh, objective):
        trainer = loop_trainer(config, mesh, objective)
        key = (
            _read_by_the_step(config), objective, str(trainer.shardings),
            loop.meshes._REPLICATE_BELOW,
        )  # fmt: skip
        trainer.step = _STEPS.setdefault(key, trainer.step)
        return trainer

    loop_trainer = loop.Trainer
    monkeypatch.setattr(loop, "Trainer", make)


@pytest.fixture
def bucket(monkeypatch):
    """A directory in gs://bucket, held in memory."""
    from imagen_jax.storage.files import to_path

    for protocol in ("gs", "gcs"):
        monkeypatch.setitem(_registry, protocol, MemoryFileSystem)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: "gcsfs" if name == "gcsfs" else None
    )
    return to_path("gs://bucket/run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What loads the TPU compiler comes last: JAX 0.10's profiler crashes beside it."""
    items.sort(key=lambda item: hasattr(item.module, "needs_libtpu"))
