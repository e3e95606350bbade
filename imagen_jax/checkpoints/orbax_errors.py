"""Errors of Orbax and TensorStore: which are of files, what they say, and who hears of them."""

import gc
import logging
import re
import sys
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import absl.logging

from imagen_jax.errors import reason

_DAMAGE = (ValueError, KeyError, OSError, TypeError)
_FORBIDDEN = "PERMISSION_DENIED"
"""So begins what TensorStore says, in a ValueError, of a file that it may not read."""
_OF_SYSTEM = re.compile(r"([^:\n]+) \[os_error_code=")
_ANNOTATIONS = re.compile(r" \[(source locations|tensorstore_spec|os_error)[^\n]*")
_PART = "Encountered error while reading array index"
"""So begins what Orbax says of an array, before indices and a description of many lines."""
_LOSS = "DATA_LOSS"
"""So begins what TensorStore says of a file that does not decode."""
_UNDECODED = "Error decoding"
"""What it says further on where it does not name the loss first."""
_LOOP_ENDED = "Event loop is closed"
"""What TensorStore's threads print of every read and write that nobody waits for any more."""
_OWNERS = ("/orbax/", "/tensorstore/")


def is_of_files(error: Exception) -> bool:
    """Whether Orbax raises it of a file.

    What a truncated or missing file raises depends on which file it is; of an array that is
    sharded, Orbax raises an Exception without a class of its own.
    """
    return type(error) is Exception or isinstance(error, _DAMAGE)


def is_forbidden(error: Exception) -> bool:
    """Whether it is of a file that is there and may not be read."""
    return isinstance(error, PermissionError) or str(error).startswith(_FORBIDDEN)


def said(error: Exception) -> str:
    """The reason; where TensorStore wraps that of the operating system, this alone."""
    if str(error).startswith((_PART, _LOSS)) or _UNDECODED in str(error):
        return "a part of an array is missing or damaged"
    if isinstance(error, KeyError):
        return f"there is no {error} where it belongs"
    inner = _OF_SYSTEM.search(str(error))
    return inner[1].strip() if inner else _ANNOTATIONS.sub("", reason(error))


def keep_quiet() -> None:
    """Once and for good: of what failed something may be heard at any later time.

    All of it is raised too, where somebody waits for it.
    """
    absl.logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.excepthook = _except_of_threads(sys.excepthook)
    sys.unraisablehook = _except_of_orbax(sys.unraisablehook)
    threading.excepthook = _except_of_orbax(threading.excepthook)


def _except_of_threads(hook: Callable[..., None]) -> Callable[..., None]:
    def call(kind: type, error: BaseException, trace: types.TracebackType | None) -> None:
        if str(error) != _LOOP_ENDED:
            hook(kind, error, trace)

    return call


def _except_of_orbax(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    def call(what: Any) -> None:
        of_orbax = str(what.exc_value) == _LOOP_ENDED or _passes_orbax(what.exc_traceback)
        if issubclass(what.exc_type, KeyboardInterrupt) or not of_orbax:
            hook(what)

    return call


def _passes_orbax(trace: types.TracebackType | None) -> bool:
    while trace is not None:
        if any(name in trace.tb_frame.f_code.co_filename for name in _OWNERS):
            return True
        trace = trace.tb_next
    return False


def drop_abandoned_reads() -> None:
    """Collects what Orbax was about to read when it failed, which may be much memory."""
    before = sys.unraisablehook

    def hook(what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            before(what)

    sys.unraisablehook = hook
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            gc.collect()
    finally:
        sys.unraisablehook = before
