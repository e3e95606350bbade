"""The flags that a manifest keeps, and the flags of a run that is made again. No JAX here."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from imagen_jax.errors import UsageError
from imagen_jax.storage.json_text import read_object

FLAG = "--from-manifest"
_ARGUMENTS = "arguments"
_WITH_VALUE = ("--out", FLAG)
_WITHOUT = ("--resume", "--no-resume", "--allow-cpu", "--no-allow-cpu")
_DISTRIBUTED = "--distributed."
"""Flags that say where a run is made, and not what."""


def kept(arguments: Sequence[str]) -> list[str]:
    """The arguments that decide what is painted."""
    return [part for group, is_kept in _groups(arguments) if is_kept for part in group]


def with_those_of_manifest(arguments: Sequence[str]) -> list[str]:
    """The arguments after those of the manifest that `--from-manifest` names, if it is there.

    Raises:
        UsageError: the manifest cannot be read, or is of no run of sample.py.
    """
    named = [group for group, _ in _groups(arguments) if _flag(group[0]) == FLAG]
    if not named:
        return list(arguments)
    group = named[-1]
    path = group[1] if len(group) > 1 else group[0].partition("=")[2]
    earlier = read_object(Path(path)).get(_ARGUMENTS)
    # No command line can hold a byte of zero.
    if not isinstance(earlier, list) or not all(
        isinstance(x, str) and "\0" not in x for x in earlier
    ):
        raise UsageError(
            f"{FLAG} {path} holds no {_ARGUMENTS!r}; a run of sample.py keeps them, and only that "
            "can be made again."
        )
    return [*kept(earlier), *arguments]


def _groups(arguments: Sequence[str]) -> Iterator[tuple[Sequence[str], bool]]:
    """Flags that belong together with their values, and whether they decide what is painted."""
    rest = list(arguments)
    while rest:
        flag, has_value = _flag(rest[0]), "=" not in rest[0]
        of_place = flag in _WITH_VALUE or flag.startswith(_DISTRIBUTED)
        count = 2 if of_place and has_value else 1
        yield rest[:count], not (of_place or flag in _WITHOUT)
        rest = rest[count:]


def _flag(argument: str) -> str:
    return argument.partition("=")[0].replace("_", "-") if argument.startswith("--") else ""
