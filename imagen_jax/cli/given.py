"""Flags as they were given: one twice, a path that is empty, a count below 1. No JAX here."""

import dataclasses
import itertools
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction

from imagen_jax.errors import UsageError

_PLACES = ("FILE", "DIR", "STAGE")
"""What the help calls a text that is a path; where such a flag is not given, it is empty too."""
_MOST = 2**20
"""Of what is made for each of a count, as pictures of a prompt are."""


def check_given(arguments: Sequence[str], flags: Any) -> None:
    """Refuses what the flag library drops or misreads, and warns where a value is given twice.

    Of a flag that is given twice the last time alone counts. An empty path, such as that of a
    variable of the shell that is not set, would be the working directory.

    Args:
        arguments: that were parsed.
        flags: what they became, a dataclass.

    Raises:
        UsageError: a flag of several values is given twice, or a path is empty.
    """
    words = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    for flag, count in Counter(_positive(_plain(word), flags) for word in words).items():
        if count > 1:
            _check_repeated(flag, count, flags)
    for before, word in itertools.pairwise(["", *arguments]):
        if word == "":
            _check_empty(before if before.startswith("--") and "=" not in before else "", flags)
        elif word.startswith("--") and word.endswith("="):
            _check_empty(word[:-1], flags)


def require_positive_flags(flags: object, *names: str) -> None:
    """Raises a UsageError for a flag of these fields that is not positive."""
    for name in names:
        if getattr(flags, name) <= 0:
            said = f"--{name.replace('_', '-')} is {getattr(flags, name)}"
            raise UsageError(f"{said}; it must be positive.")


def require_countable_flags(flags: object, *names: str) -> None:
    """Raises a UsageError for a flag of these fields that is not positive, or beyond all sense."""
    require_positive_flags(flags, *names)
    for name in names:
        if getattr(flags, name) > _MOST:
            said = f"--{name.replace('_', '-')} is {getattr(flags, name)}"
            raise UsageError(f"{said}; it must be at most {_MOST:,}.")


def _check_repeated(flag: str, count: int, flags: Any) -> None:
    found = _find(flags, _path(flag))
    if found is None or UseAppendAction in _metadata(found[0]):
        return
    if isinstance(found[1], tuple | dict):
        raise UsageError(f"{flag} is given {count} times; put all its values after one {flag}.")
    warnings.warn(f"{flag} is given {count} times; the last one counts.", stacklevel=3)


def _check_empty(flag: str, flags: Any) -> None:
    """`flag` is that of the empty text; it is empty too for an argument that stands by itself."""
    found = _find(flags, _path(_plain(flag)))
    if flag and not (found and isinstance(found[1], bool)):
        if found and _is_place(*found):
            raise UsageError(f"{_plain(flag)} is ''; it must name a file or a directory.")
    elif any(Positional in _metadata(field) for field in dataclasses.fields(flags)):
        raise UsageError("An argument is ''; it must not be empty.")


def _is_place(field: dataclasses.Field, value: Any) -> bool:
    first = value[0] if isinstance(value, tuple) and value else value
    shown = [getattr(x, "metavar", None) for x in _metadata(field)]
    return isinstance(first, Path) or any(place in shown for place in _PLACES)


def _plain(word: str) -> str:
    return word.replace("_", "-")


def _positive(flag: str, flags: Any) -> str:
    """--no-resume -> --resume, where that is a flag."""
    *before, last = flag[2:].split(".")
    other = "--" + ".".join([*before, last.removeprefix("no-")])
    found = _find(flags, _path(other))
    return other if found is not None and isinstance(found[1], bool) else flag


def _path(flag: str) -> list[str]:
    return flag[2:].replace("-", "_").split(".")


def _metadata(field: dataclasses.Field) -> tuple[Any, ...]:
    return getattr(field.type, "__metadata__", ())


def _find(flags: Any, path: list[str]) -> tuple[dataclasses.Field, Any] | None:
    """The field of a flag, and its value."""
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if dataclasses.is_dataclass(value):
            inner = path if _is_left_out(field) else path[1:] if path[0] == field.name else []
            if inner and (found := _find(value, inner)):
                return found
        elif [field.name] == path:
            return field, value
    return None


def _is_left_out(field: dataclasses.Field) -> bool:
    """Whether flags of this part begin without its name."""
    said = _metadata(field)
    return OmitArgPrefixes in said or any(getattr(x, "name", None) == "" for x in said)
