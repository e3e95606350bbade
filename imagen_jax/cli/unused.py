"""Flags that were given where nothing uses them."""

import dataclasses

from imagen_jax.errors import UsageError


def require_default(flags: object, why: str, *names: str) -> None:
    """Raises a UsageError for a flag that was given and is not used.

    Args:
        why: ends the sentence.
        names: of fields; without any all of them.
    """
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if value != field.default and field.name in (names or [field.name]):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise UsageError(f"--{field.name.replace('_', '-')} is {shown}; {why}")
