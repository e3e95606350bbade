"""The flags of `sample` for painting from a picture, and for steering. No JAX here."""

import dataclasses
import reprlib
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from imagen_jax.cli import per_stage
from imagen_jax.errors import UsageError

_File = Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")]


def _sides_and_pixels(texts: list[str]) -> dict[str, int]:
    if len(texts) % 2:
        raise ValueError(f"{reprlib.repr(texts[-1])} stands alone; it takes SIDE PIXELS in pairs")
    pixels_of: dict[str, int] = {}
    for sides, pixels in zip(texts[::2], texts[1::2], strict=True):
        for side in sides.split(","):
            if side in pixels_of:
                raise ValueError(f"{reprlib.repr(side)} is given twice")
            try:
                pixels_of[side] = int(pixels)
            except ValueError:
                said = reprlib.repr(pixels)
                raise ValueError(f"{said} is no whole number of pixels") from None
    return pixels_of


Extension = Annotated[
    dict[str, int],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="SIDE[,SIDE...] PIXELS",
        instance_from_str=_sides_and_pixels,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [str(x) for pair in value.items() for x in pair],
    ),
    tyro.conf.arg(help_behavior_hint="(default: none)"),
]


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
    extend: Extension = dataclasses.field(default_factory=dict)
    """Paint beyond these sides of --image, so many of its pixels: left,right 128, or left 128
    top 64. Sides are left, right, top and bottom."""
    variations: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: none)")] = 0
    """So many pictures like --image: with it the same as --num-images."""

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
        for name in ("mask", "extend", "strength", "inpainting", "resamplings", "variations"):
            if getattr(self, name) and not self.image:
                raise UsageError(f"--{name} is of a picture; name that by --image FILE.")
        for name in ("inpainting", "resamplings"):
            if getattr(self, name) and not (self.mask or self.extend):
                raise UsageError(f"--{name} is of a mask; name that by --mask FILE.")
        if self.variations < 0:
            raise UsageError(f"--variations is {self.variations}; it must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteerFlags:
    """Steering."""

    negative_prompt: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: no text)")] = ""
    """What guidance leads away from."""
    prompts_file: _File = ""
    """Instead of prompts: one a line; or a .csv with a column prompt, and settings of each row in
    others: seed, negative_prompt, guidance_scale, num_steps, ..."""
    init_noise: _File = ""
    """A .npy file that the first stage begins with: height, width, 3, or one for each picture."""
    positive_prompt: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: none)")] = ""
    """Another text beside the prompt, such as a style's: guidance goes to a mixture of both."""
    positive_share: per_stage.Shares = ()
    """How much of the mixture that is: one value for all stages, or one for each."""
    interpolate: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: none)")] = 0
    """So many pictures from one prompt to a second one, or with --to-seed between seeds; they also
    come as a strip and a GIF."""
    to_seed: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: none)")] = None
    """The seed at the end of --interpolate."""

    def arguments(self, stages: int) -> dict[str, Any]:
        """What a call of a cascade takes of it."""
        share = None
        if self.positive_share:
            share = per_stage.for_stages("--positive-share", self.positive_share, stages)
        return {
            "negative_prompt": self.negative_prompt or None,
            "positive_prompt": self.positive_prompt or None,
            "positive_share": share,
            "init_noise": self.init_noise or None,
            "interpolate": self.interpolate or None,
            "to_seed": self.to_seed,
        }
