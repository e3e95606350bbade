"""The one exception that a user can cause and mend, and how scripts report it."""

import _thread
import collections
import contextlib
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_LONGEST = 2000
"""Letters of what is said of one mistake: names that are read in files may be of any length."""
_SOON = 0.02
"""Seconds."""
_NOBODY_READS = 128 + 13
"""The exit code of a program that SIGPIPE ended, as shells give it."""


class UsageError(ValueError):
    """A user's mistake: one sentence that names the offending value and the rule."""


def reason(error: BaseException) -> str:
    """The first line of what an error says; of an operating system's, without the file's name."""
    said = getattr(error, "strerror", None) or str(error).strip() or repr(error)
    return said.partition("\n")[0].rstrip(".")


@contextlib.contextmanager
def naming(origin: object) -> Iterator[None]:
    """Puts where something was read before what a UsageError says of it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error


@contextlib.contextmanager
def exit_on_usage_error() -> Iterator[None]:
    """Ends a script with one sentence on stderr and exit code 2, without a traceback.

    So ends what the operating system refuses: a file that cannot be read, a disk that is full,
    no network, no more memory. Warnings are one line each too, and none is repeated. Ctrl-C ends
    with exit code 130, and a reader such as `head` that has read enough with 141, in silence.
    """
    with warnings.catch_warnings(), _interrupts_raised_again():
        warnings.showwarning = _warn_once()
        try:
            yield
            _flush_stdout()
        except UsageError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                sys.exit(_NOBODY_READS)
            where = "" if error.filename is None else f"{error.filename}: "
            print(f"error: {one_line(where + reason(error))}.", file=sys.stderr)
            sys.exit(2)
        except MemoryError as error:
            print(f"error: There is not enough memory: {one_line(reason(error))}.", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(130)
        finally:
            _give_up_stdout_that_fails()


def _flush_stdout() -> None:
    """Raises what becomes of the last lines; a program may have been begun without a stdout."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def _give_up_stdout_that_fails() -> None:
    """Python writes once more at its end, and would say so where that fails."""
    try:
        _flush_stdout()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _nobody_reads() -> bool:
    """Whether what would read stdout has gone."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(events & select.POLLERR for _, events in poll.poll(0))


@contextlib.contextmanager
def _interrupts_raised_again() -> Iterator[None]:
    """Within it Ctrl-C is not lost where it comes while Python runs a callback.

    JAX has one for the garbage collector. Python drops an exception that such a callback raises,
    and one that this hook raises, so another thread sends the signal again when both have ended.
    """
    before, active = sys.unraisablehook, [True]

    def send() -> None:
        time.sleep(_SOON)
        if active:
            os.kill(os.getpid(), signal.SIGINT)

    def hook(dropped: Any) -> None:
        if active and issubclass(dropped.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(send, ())  # It waits for nothing, as `threading` would.
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        active.clear()
        if sys.unraisablehook is hook:  # Another that was put before it goes on with it.
            sys.unraisablehook = before


def one_line(text: str) -> str:
    """`text` for a terminal: what would move its cursor or break the line is spelt out.

    Of what is too long to be read only the two ends are shown.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def end_at_once(error: UsageError) -> NoReturn:
    """Ends as `exit_on_usage_error`, where other threads would go on for long and for nothing."""
    print(f"error: {one_line(str(error))}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(2)


def _warn_once() -> Callable[..., None]:
    """A `warnings.showwarning` without the line of source that Python's has.

    It remembers the last thousand, so that a long run's do not fill the memory.
    """
    seen: collections.deque[str] = collections.deque(maxlen=1000)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            seen.append(str(message))
            print(f"warning: {one_line(str(message))}", file=sys.stderr)

    return show
