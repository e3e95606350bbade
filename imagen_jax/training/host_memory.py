"""Gives memory that was freed back to the machine."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): how much unused memory is kept at the end of a heap, and from which
size on a block lies in pages of its own, which go back when it is freed."""


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
