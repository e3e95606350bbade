"""What a process keeps of the memory that it frees, and what it gives back to the machine."""

import contextlib
import ctypes
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): how much unused memory is kept at the end of a heap, and from which
size on a block lies in pages of its own, which go back when it is freed."""
_BLOCK = 2**23
"""Bytes of a block, at least. Beyond 32 MiB glibc keeps none."""
_SHAPE = re.compile(r"tensor<((?:\d+x)+)")


@contextlib.contextmanager
def freed_at_once() -> Iterator[None]:
    """Inside of it blocks of 128 KiB and more lie in pages of their own.

    Of these glibc keeps up to 32 MiB each when they are freed, for the thread that had them.
    Orbax reads a checkpoint with many threads, which ask for nothing more, so what they had in
    hand would stay taken for as long as the run.
    """
    # Other C libraries know no such parameters.
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_parameter is None:
        yield
        return
    set_parameter(_MMAP_THRESHOLD, 2**17)
    try:
        yield
    finally:  # What glibc comes to by itself in a process that frees large blocks.
        set_parameter(_MMAP_THRESHOLD, 2**25)
        set_parameter(_TRIM_THRESHOLD, 2**26)


def in_blocks(function: jax.stages.Wrapped, platform: str) -> Callable:
    """A jitted function of always the same shapes, whose memory CPUs can use again at every call.

    XLA asks for all of a program's memory as one block, at every call anew, and the machine
    maps and clears each page of it again. Smaller blocks malloc can keep for the next call.
    """
    compiled = None

    def call(*arguments: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            compiled = compile_in_blocks(function.lower(*arguments))
        return compiled(*arguments)

    return call if platform == "cpu" else function


def compile_in_blocks(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """As `in_blocks` does."""
    shapes = [shape.split("x")[:-1] for shape in set(_SHAPE.findall(lowered.as_text()))]
    largest = 4 * max((math.prod(map(int, shape)) for shape in shapes), default=1)
    # XLA warns of every array that is larger; those that it pads are a little larger than here.
    block = min(max(_BLOCK, largest * 5 // 4), 2**31 - 1)
    return lowered.compile(compiler_options={"xla_multiheap_size_constraint_per_heap": block})
