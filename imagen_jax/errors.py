"""The one exception that a user can cause and mend, and how scripts report it."""

import contextlib
import sys
from collections.abc import Iterator


class UsageError(ValueError):
    """A user's mistake: one sentence that names the offending value and the rule."""


@contextlib.contextmanager
def exit_on_usage_error() -> Iterator[None]:
    """Ends a script with one sentence on stderr and exit code 2, without a traceback."""
    try:
        yield
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
