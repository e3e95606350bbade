"""The flags of `sample` for painting from a picture. No JAX here."""

import dataclasses
from typing import Annotated, Any

import tyro

from imagen_jax.cli import per_stage
from imagen_jax.errors import UsageError

_File = Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditFlags:
    """Painting from a picture; a prompt may then be left out."""

    image: _File = ""
    """The picture that every stage edits, or with --base none the one that is enlarged."""
    mask: _File = ""
    """As large as --image: what is white in it is repainted and what is black stays."""
    strength: per_stage.Strengths = ()
    """How far to go from --image: 0 gives it back, 1 forgets it. Like --resamplings and
    --inpainting it takes one value for all stages, or one for each."""
    inpainting: per_stage.Inpaintings = ()
    """How what stays enters: repaint noises it to the time of each step, clean leaves it without
    noise."""
    resamplings: per_stage.Resamplings = ()
    """How often repaint goes each part of the way: more fit better and take longer."""

    def settings(self, stages: int) -> dict[str, list[Any]]:
        """Field of `EditSettings` -> its value for each stage, of those that were given."""
        names = ("strength", "inpainting", "resamplings")
        given = {name: getattr(self, name) for name in names if getattr(self, name)}
        return {
            name: per_stage.for_stages(f"--{name}", values, stages)
            for name, values in given.items()
        }

    def check(self) -> None:
        """Raises a UsageError for flags that have nothing to belong to."""
        for name in ("mask", "strength", "inpainting", "resamplings"):
            if getattr(self, name) and not self.image:
                raise UsageError(f"--{name} is of a picture; name that by --image FILE.")
        for name in ("inpainting", "resamplings"):
            if getattr(self, name) and not self.mask:
                raise UsageError(f"--{name} is of a mask; name that by --mask FILE.")
