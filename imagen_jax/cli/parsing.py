"""What the flag library says of a mistake, a box of many lines, as one plain sentence."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from imagen_jax.errors import UsageError

Result = TypeVar("Result")
_FRAME = " │"
_RULE = re.compile(r"^.*[─-]{4,}.*$", re.MULTILINE)
"""A line across a box; the first one may hold the title."""
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_UNKNOWN = "Unrecognized options: "
_MISSING = "Missing from "
_NAMED = re.compile(r"^[│ ] {5}(?! )(-*[\w.-]+)", re.MULTILINE)
"""A flag or argument on a line of its own; what is said of it stands further in."""
_MOST_SIMILAR = 4
_PLAIN = (
    (r"Error parsing ", ""),
    (r"invalid literal for int\(\) with base 10: (.*)", r"\1 is no whole number"),
    (r"could not convert string to float: (.*)", r"\1 is no number"),
    (
        r"invalid choice (.*) for argument '(.*?)'\. Expected one of \((.*)\)\.",
        r"\2 is \1; it must be one of \3.",
    ),
    (
        r"Could not find valid parse for arguments: \[(.*)\]",
        r"\1 is too few or too many values, or of another kind",
    ),
    (r"Missing value for argument '(-.*?)'.*", r"\1 has no value after it"),
    (r"Missing value for argument '(.*?)'.*", r"\1 is missing"),
)
"""What Python and the flag library say, and how it is said here."""


def in_unicode(arguments: Sequence[str]) -> list[str]:
    """The arguments; libraries that read files take no other names of them.

    Raises:
        UsageError: one of them is not UTF-8.
    """
    for argument in arguments:
        if argument != argument.encode(errors="ignore").decode():
            raise UsageError(f"{argument!r} is not UTF-8; rename the file, or spell it anew.")
    return list(arguments)


def parse_flags(parse: Callable[[], Result]) -> Result:
    """What `parse` returns; a mistake that it prints as a box becomes one sentence.

    Args:
        parse: reads flags; on a mistake it prints a title, a rule, what is wrong and further
            help to stderr and exits with code 2, as tyro does.

    Raises:
        UsageError: with what stands below the first rule.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return parse()
    except SystemExit as end:
        if end.code != 2:
            raise
        raise UsageError(_sentence(_STYLE.sub("", box.getvalue()))) from None


def _sentence(box: str) -> str:
    """What stands between the first two rules, up to a blank line; all of it without rules."""
    parts = _RULE.split(box)
    said = parts[1 if len(parts) > 1 else 0]
    lines = [line.strip(_FRAME) for line in said.splitlines()]
    message = " ".join("\n".join(lines).strip().partition("\n\n")[0].split())
    if message.startswith(_UNKNOWN):
        return _of_unknown(message.removeprefix(_UNKNOWN).split(", "), "".join(parts[2:]))
    if message.startswith(_MISSING):
        names = _NAMED.findall(said)
        return f"{_listed(names, 'and')} {'is' if len(names) == 1 else 'are'} missing."
    for pattern, plain in _PLAIN:
        message = re.sub(pattern, plain, message)
    return message if message.endswith(".") else f"{message}."


def _of_unknown(words: list[str], offers: str) -> str:
    """The error for words that mean nothing, with what may have been meant."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not flags:
        left = " ".join(words)
        return f"{left!r} belongs to no flag; put what belongs together in quotes and side by side."
    similar = [name for name in dict.fromkeys(_NAMED.findall(offers)) if name.startswith("-")]
    hint = (
        f"perhaps you meant {_listed(similar[:_MOST_SIMILAR], 'or')}"
        if similar
        else "--help lists all"
    )
    return f"There is no {_listed(flags, 'and no')}; {hint}."


def _listed(names: list[str], last: str) -> str:
    """a, b LAST c."""
    *before, end = names
    return f"{', '.join(before)} {last} {end}" if before else end
