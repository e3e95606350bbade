"""Start-up of one process or many, what they wait for, and the accelerator that was asked for."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from imagen_jax.errors import UsageError
from imagen_jax.parallel.machine import (
    DistributedFlags,
    Machine,
    missing_accelerator,
    start_arguments,
)

T = TypeVar("T")
_CONNECT_SECONDS = 300
"""The processes of a run may come so far apart."""
_SHUTDOWN_SECONDS = 60
"""A process that ends waits so long for the others: after a mistake on one, all end then."""
_MOST_SAID = 1024
"""Bytes of a text that processes tell each other."""


def start(flags: DistributedFlags, machine: Machine | None = None) -> None:
    """Connects the processes of a run; alone, does nothing. Before anything else of JAX.

    Raises:
        UsageError: the flags contradict themselves, SLURM has tasks that were not started, or
            the processes do not find each other.
    """
    machine = Machine.here() if machine is None else machine
    arguments = start_arguments(flags, machine)
    if arguments is None:
        return
    try:
        with _giving_up_after(_CONNECT_SECONDS):
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=2 * _CONNECT_SECONDS,
                shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            )
    # OSError: the metadata server does not answer. JAX's own errors are RuntimeErrors.
    except (RuntimeError, ValueError, OSError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"The processes of this run did not find each other: {first_line.rstrip('.')}; give "
            "--distributed.coordinator, --distributed.num-processes and --distributed.process-id."
        ) from error


@contextlib.contextmanager
def _giving_up_after(seconds: int) -> Iterator[None]:
    """Ends the program as a UsageError does, before JAX's own timeout aborts it by a signal."""

    def give_up() -> None:
        print(
            f"error: The other processes of this run did not come within {seconds} seconds; all "
            "must be started and reach the address of process 0.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)  # The main thread waits inside JAX and hears no exception.

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def require_accelerator(*, allow_cpu: bool, machine: Machine | None = None) -> None:
    """Starts JAX's backend, and sees to it that the accelerator that was asked for is used.

    All that this package computes is float32 or less, whatever JAX_ENABLE_X64 says, and arrays of
    other kinds and ranks meet in it, which JAX_NUMPY_..._PROMOTION could forbid.

    Asked for is what `JAX_PLATFORMS` names first, else a TPU or GPU that is visible and has
    its plugin installed. A machine without any just runs.

    Raises:
        UsageError: JAX cannot use it; with `allow_cpu` the CPU is used instead.
    """
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    platforms = jax.config.jax_platforms or ""
    try:
        problem = missing_accelerator(platforms, jax.default_backend(), machine or Machine.here())
    # An AssertionError without a message is what a platform without a plugin gives.
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0] or "it has no plugin"
        problem = f"JAX_PLATFORMS is {platforms!r}, which JAX cannot start: {first_line}"
        if allow_cpu:
            jax.config.update("jax_platforms", "cpu")
    if problem and not allow_cpu:
        raise UsageError(f"{problem}; mend the installation, or pass --allow-cpu.")


def leads() -> bool:
    """Whether this process writes the files that a run has one of."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Every process waits here until all have come; `what` must be the same."""
    multihost_utils.sync_global_devices(what)


def said_by_all(text: str) -> list[str]:
    """What each process says, in their order; of long texts the beginning. All must call it."""
    if jax.process_count() == 1:
        return [text]
    said = np.frombuffer(text.encode()[:_MOST_SAID].ljust(_MOST_SAID, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(said)
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def leader_does(action: Callable[[], T]) -> T | None:
    """What the first process gets of an action that it alone does; None on the others.

    Raises:
        UsageError: on all processes, where the first one's does.
    """
    if jax.process_count() == 1:
        return action()
    result, problem = None, ""
    if leads():
        try:
            result = action()
        except UsageError as error:
            problem = str(error)
    if problem := said_by_all(problem)[0]:
        raise UsageError(problem)
    return result


def told_by_leader(value: np.ndarray | None) -> np.ndarray | None:
    """The first process's array, or None, on all. What others pass does not matter."""
    if jax.process_count() == 1:
        return value
    said = said_by_all("" if value is None else json.dumps([value.dtype.str, *value.shape]))[0]
    if not said:
        return None
    dtype, *shape = json.loads(said)
    value = value if leads() else np.zeros(shape, dtype)
    return np.asarray(multihost_utils.broadcast_one_to_all(value))


@contextlib.contextmanager
def leader_first(what: str) -> Iterator[None]:
    """The first process does it before the others, which find what it made.

    Where it fails the others try too, so that each says why and none waits for ever.
    """
    if not leads():
        wait_for_all(what)
    try:
        yield
    finally:
        if leads():
            wait_for_all(what)


def in_float32() -> contextlib.AbstractContextManager:
    """Within it JAX makes no float64, whatever JAX_ENABLE_X64 says."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(False)
    return jax.experimental.disable_x64()  # Before JAX 0.8.
