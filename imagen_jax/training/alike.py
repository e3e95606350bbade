"""What a run must have in common with a stage that it is trained beside: its teacher, or the stage
that its adapter is added to."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError

SEEN = (
    "resolution",
    "low_resolution",
    "diffusion.schedule",
    "diffusion.augmented",
    "conditions.text",
    "conditions.classes",
    "conditions.pictures",
    "conditions.numbers",
)
"""Fields that decide what a network is shown."""
READ = tuple(
    f"text_encoder.{name}"
    for name in ("t5", "clip", "clip_layer", "max_length", "lowercase", "null")
)
"""Fields that decide how text is read."""
_COMPUTED = {"dtype": "float32", "remat": "none"}
"""Fields of an encoder that change nothing of what comes out."""


def check_alike(theirs: StageConfig, ours: StageConfig, origin: str, names: Iterable[str]) -> None:
    """Compares fields of two configs; those of text where text is read.

    Raises:
        UsageError: a field differs.
    """
    for name in names:
        if name.startswith("text_encoder.") and not ours.conditions.text:
            continue
        one, other = _field(theirs, name), _field(ours, name)
        if one != other:
            raise UsageError(f"{origin} has {name} {one!r}; this config has {other!r}.")


def _field(config: StageConfig, name: str) -> Any:
    value: Any = functools.reduce(getattr, name.split("."), config)
    return dataclasses.replace(value, **_COMPUTED) if dataclasses.is_dataclass(value) else value
