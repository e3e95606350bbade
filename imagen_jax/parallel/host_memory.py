"""What a process keeps of the memory that it frees, and what it gives back to the machine."""

import contextlib
import ctypes
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): how much unused memory is kept at the end of a heap, and from which
size on a block lies in pages of its own, which go back when it is freed."""
_KEEP_ALL = -1
"""A trim threshold with which nothing goes back to the machine."""
_GLIBC_THRESHOLD = 2**25
"""The mmap threshold that glibc comes to by itself in a process that frees large blocks."""
_BLOCK = 2**23
"""Bytes of a block, at least."""
_LARGEST_BLOCK = 2**31 - 2**13
"""mallopt takes an int, and malloc some bytes more than are asked for."""
_SHAPE = re.compile(r"tensor<((?:\d+x)+)")


@contextlib.contextmanager
def freed_at_once() -> Iterator[None]:
    """Inside of it blocks of 128 KiB and more lie in pages of their own.

    Of these glibc keeps up to 32 MiB each when they are freed, for the thread that had them.
    Orbax reads a checkpoint with many threads, which ask for nothing more, so what they had in
    hand would stay taken for as long as the run.
    """
    _set_malloc(_MMAP_THRESHOLD, 2**17)
    try:
        yield
    finally:
        _set_malloc(_MMAP_THRESHOLD, _GLIBC_THRESHOLD)
        _set_malloc(_TRIM_THRESHOLD, 2 * _GLIBC_THRESHOLD)


def _set_malloc(parameter: int, value: int) -> None:
    """Does nothing where the C library is not glibc: others know no such parameters."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(parameter, value)


def run_where_called() -> None:
    """Programs of one CPU run on the thread that calls them. Before JAX's backend starts.

    Otherwise XLA takes any thread, whose memory is no other's, and says that a program is done
    before its memory is free: that of the next may come on top of it.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def in_blocks(
    function: jax.stages.Wrapped, platform: str, options: Mapping[str, bool] | None = None
) -> Callable:
    """A jitted function, compiled for each shape, whose memory CPUs use again at every call.

    XLA asks for all of a program's memory as one block, at every call anew, and the machine
    maps and clears each page of it again. Smaller blocks malloc keeps for the next call, and
    finds again also where something else took a place between them. That they are the same
    thread's each time, `run_where_called` sees to.

    Args:
        options: as `compile_in_blocks` takes them.
    """
    compiled: dict[tuple, jax.stages.Compiled] = {}

    def call(*arguments: Any) -> Any:
        shapes = tuple(x.shape for x in jax.tree.leaves(arguments))
        if shapes not in compiled:
            compiled[shapes] = compile_in_blocks(function.lower(*arguments), options)
        # A program whose arguments are still on their way waits for them on another thread.
        return compiled[shapes](*jax.block_until_ready(arguments))

    return call if platform == "cpu" else function


def compile_in_blocks(
    lowered: jax.stages.Lowered, options: Mapping[str, bool] | None = None
) -> jax.stages.Compiled:
    """Compiles as `in_blocks`. From then on the process keeps of its main heap what it frees.

    Args:
        options: of the compiler, for speed alone. Where it fails with them, it does without.
    """
    shapes = [shape.split("x")[:-1] for shape in set(_SHAPE.findall(lowered.as_text()))]
    largest = 4 * max((math.prod(map(int, shape)) for shape in shapes), default=1)
    # XLA warns of every array that is larger; those that it pads are a little larger than here.
    block = min(max(_BLOCK, largest * 5 // 4), _LARGEST_BLOCK)
    in_blocks = {"xla_multiheap_size_constraint_per_heap": block}
    try:
        compiled = lowered.compile(compiler_options={**in_blocks, **(options or {})})
    except jax.errors.JaxRuntimeError:
        if not options:
            raise
        compiled = lowered.compile(compiler_options=in_blocks)
    # Before glibc 2.35 the threshold stays at 32 MiB, and larger blocks go back.
    _set_malloc(_MMAP_THRESHOLD, max(_GLIBC_THRESHOLD, block + 2**12))
    _set_malloc(_TRIM_THRESHOLD, _KEEP_ALL)
    return compiled
