"""The flags that name a cascade's stages, and the stages that they name. No JAX here."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from imagen_jax.cli import per_stage
from imagen_jax.config.python_file import stage_or_config
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.shipped import STAGES, STUDENT, shipped_stage
from imagen_jax.storage.files import AnyPath

SHIPPED = "shipped"
SHIPPED_STUDENT = "shipped-student"
NONE = "none"
OURS = ("", SHIPPED, SHIPPED_STUDENT)
"""What names a base of the package."""
_Follower = Annotated[
    str,
    tyro.conf.arg(
        metavar="STAGE", help_behavior_hint="(default: shipped; none after a stage of your own)"
    ),
]
_Adapters = Annotated[
    tuple[str, ...],
    tyro.conf.arg(metavar="ADAPTER[:WEIGHT] ...", help_behavior_hint="(default: none)"),
]


def _told_base(default: str) -> str:
    unnamed = f"{SHIPPED_STUDENT} for prompts alone, else {SHIPPED}"
    return f"(default: {default if SHIPPED in default else unnamed})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CascadeFlags:
    """Which networks paint, from the smallest picture to the largest."""

    base: Annotated[str, tyro.conf.arg(metavar="STAGE", help_behavior_hint=_told_base)] = SHIPPED
    """The stage that paints 64 pixels: a training directory or an exported file; `none` enlarges an
    --image by the stages after it. `shipped` is the base of the package, and `shipped-student` its
    student, which paints prompts with a quarter of the work."""
    sr256: _Follower = ""
    """The stage from 64 to 256 pixels; `none` stops before it, and `shipped` is the one that ships
    with the package."""
    sr1024: _Follower = ""
    """The stage from 256 to 1024 pixels, in the same way."""
    base_adapters: _Adapters = ()
    """What is added to the base: files that `export` wrote, or training directories of adapters,
    each with its weight after a colon if that is not 1, as in zibo.safetensors:0.8."""
    sr256_adapters: _Adapters = ()
    """The same for the stage of 256 pixels."""
    sr1024_adapters: _Adapters = ()
    """The same for the stage of 1024 pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageFlags(CascadeFlags):
    """Which networks paint, which of their weights, and who embeds for them."""

    weights: per_stage.WhichWeights = ()
    """ema or raw: of a training directory, the average of its weights or the weights themselves; an
    exported file holds one of them."""
    embeddings: per_stage.Directories = ()
    """Directory that `python -m imagen_jax embed` wrote and that holds the prompts, or one for each
    stage where their text encoders differ: none of these is loaded."""


def stage_names(flags: CascadeFlags, *, enlarges: bool = False) -> tuple[str, ...]:
    """Which of `STAGES` run.

    A shipped stage is a small network that knows what it follows: unasked, none follows a
    stage of the user's own.

    Args:
        enlarges: the first stage may be given a picture, so that those before it may be missing.
    """
    unused = [_stage_of(flags, name) == NONE for name in STAGES]
    first = unused.index(False) if enlarges and False in unused else 0
    end = next((i for i in range(first, len(STAGES)) if unused[i]), len(STAGES))
    names, after = STAGES[first:end], STAGES[end:]
    if not names:
        raise UsageError(
            f"--base is {NONE!r}; a cascade starts with a base stage, unless sample.py enlarges an "
            "--image with another one."
        )
    for name in after[1:]:
        if getattr(flags, name) not in (NONE, ""):
            ended = f"is {NONE!r}" if getattr(flags, after[0]) else "is missing"
            raise UsageError(
                f"--{name} is {getattr(flags, name)!r}, but --{after[0]} {ended}, which ends the "
                "cascade before it."
            )
    return names


def stage_paths(flags: CascadeFlags, *, enlarges: bool = False) -> list[AnyPath]:
    """The files or directories of the stages to run; arguments as in `stage_names`."""
    return [_path_of(flags, name) for name in stage_names(flags, enlarges=enlarges)]


def _path_of(flags: CascadeFlags, name: str) -> AnyPath:
    value = _stage_of(flags, name)
    if name == STAGES[0] and value == SHIPPED_STUDENT:
        return shipped_stage(STUDENT)
    return shipped_stage(name) if value == SHIPPED else stage_or_config(value)


def _stage_of(flags: CascadeFlags, name: str) -> str:
    """What a stage is, where no flag names it too."""
    before = {getattr(flags, other) for other in STAGES[: STAGES.index(name)]}
    ours = before <= {*OURS, NONE}
    return getattr(flags, name) or (SHIPPED if ours else NONE)


def adapters_of(flags: CascadeFlags, name: str) -> list[tuple[str, float]]:
    """Paths and weights of the adapters of one of `STAGES`.

    Raises:
        UsageError: a weight is not finite.
    """
    found = []
    for text in getattr(flags, f"{name}_adapters"):
        path, colon, number = text.rpartition(":")
        try:
            weight = float(number) if colon else 1.0
        except ValueError:  # The colon is one of the path's.
            path, weight = "", 1.0
        if not math.isfinite(weight):
            raise UsageError(f"--{name}-adapters has {text!r}; its weight must be finite.")
        found.append((path or text, weight))
    return found


def check_adapters(flags: CascadeFlags, names: Sequence[str]) -> None:
    """Raises a UsageError for adapters of a stage that is not among those that run."""
    for name in STAGES:
        if name not in names and (given := getattr(flags, f"{name}_adapters")):
            raise UsageError(f"--{name}-adapters is {given[0]}, but no stage --{name} runs.")


def tell_what_is_left_out(flags: CascadeFlags, last: str) -> None:
    """Says on stderr that the cascade ends with stage `last` though nobody said `none`."""
    after = STAGES[STAGES.index(last) + 1 :]
    if after and not getattr(flags, after[0]):
        print(
            f"The last stage is --{last}: the stages that ship with this package do not follow "
            f"your own. Name one with --{after[0]} to go on.",
            file=sys.stderr,
        )
