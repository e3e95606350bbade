"""The flags of `sample` for what stages are shown beside their prompts. No JAX here."""

import dataclasses
from typing import Annotated, Any

import tyro

from imagen_jax.errors import UsageError

_File = Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapFlags:
    """What stages that were trained on maps or sketches follow."""

    labels: _File = ""
    """A map of classes, for stages that are shown one as 'labels': a picture of numbers, or with
    --palette of colours."""
    palette: _File = ""
    """A JSON file that says which colour of a map is which class: {"#87ceeb": 0, "#228b22": 1}."""
    sketch: _File = ""
    """A sketch, for stages that are shown one as 'sketch'."""
    maps: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="NAME=FILE ...", help_behavior_hint="(default: none)"),
    ] = ()
    """What stages are shown under other names, as in depth=depth.png."""

    def arguments(self) -> dict[str, Any]:
        """What a call of a cascade takes of it."""
        return {"pictures": self._pictures(), "palette": self.palette or None}

    def check(self) -> None:
        """Raises a UsageError for what cannot be meant."""
        if self.palette and not self._pictures():
            raise UsageError("--palette is of a map of classes; name that by --labels FILE.")

    def _pictures(self) -> dict[str, str]:
        """Name -> file."""
        own = {"labels": self.labels, "sketch": self.sketch}
        found = {name: file for name, file in own.items() if file}
        for text in self.maps:
            name, _, file = text.partition("=")
            if not (name.isidentifier() and file):
                raise UsageError(f"--maps has {text!r}; it must be a name, = and a file.")
            if name in found:
                raise UsageError(f"{name!r} is given twice; give one file for it.")
            found[name] = file
        return found
