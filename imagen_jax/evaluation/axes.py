"""What a sweep goes over: settings of a cascade's stages, and the stages themselves.

No JAX here.
"""

import dataclasses
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, get_args

from imagen_jax.config.choices import Renoising, SamplerName, Thresholding
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.shipped import STAGES
from imagen_jax.storage.digests import digest

Point = dict[str, Any]
"""Name of an axis -> one of its values."""

NAMED = {
    "paper-base-w": "base.guidance=1,1.25,1.5,1.75,2,3,4,5,6,7,8,9,10",
    "paper-sr-w": "sr256.guidance=1,3,5,7,8,10,12,15,18",
}
"""The lists of guidance scales of the paper's appendix D."""
_LONGEST_NAME, _MOST_POINTS = 100, 10_000


@dataclasses.dataclass(frozen=True)
class Axis:
    """One thing that is varied.

    Attributes:
        name: of a stage, of a setting, which all stages then have, or of both: "base.guidance".
    """

    name: str
    values: tuple[Any, ...]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def _interval(text: str) -> tuple[float, float]:
    start, end = map(_fraction, text.split(":"))
    if start >= end:
        raise ValueError
    return start, end


def _momentum(text: str) -> float:
    value = float(text)
    if not -1 < value <= 0:
        raise ValueError
    return value


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise ValueError
        return value

    return parse


def _one_of(choices: Any) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in get_args(choices):
            raise ValueError
        return text

    return parse


def _path(text: str) -> str:
    if not text:
        raise ValueError
    return text


_SETTINGS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "guidance": ("guidance_scale", _finite, "a finite number"),
    "aug_level": ("aug_level", _fraction, "a number between 0 and 1"),
    "steps": ("num_steps", _at_least(1), "a whole number of at least 1"),
    "sampler": ("sampler", _one_of(SamplerName), " or ".join(get_args(SamplerName))),
    "thresholding": ("thresholding", _one_of(Thresholding), " or ".join(get_args(Thresholding))),
    "interval": ("guidance_interval", _interval, "two times from 0 to 1 as 0.2:0.8"),
    "oscillates_from": ("guidance_oscillates_from", _at_least(0), "a whole number of at least 0"),
    "parallel": ("guidance_parallel", _fraction, "a number between 0 and 1"),
    "momentum": ("guidance_momentum", _momentum, "a number from above -1 to 0"),
    "renoising": ("renoising", _one_of(Renoising), " or ".join(get_args(Renoising))),
}
"""Name -> the field of `SamplingConfig`, how a value is read, and what it must be."""


def read_axis(text: str) -> Axis:
    """NAME=VALUE,VALUE,..., or the name of one of `NAMED`.

    Raises:
        UsageError: no such name or value, or a value that comes twice.
    """
    name, _, values = NAMED.get(text, text).partition("=")
    name = name.replace("-", "_")
    stage, _, setting = name.rpartition(".")
    if name in STAGES:
        parse, rule = _path, "a stage"
    elif setting in _SETTINGS and (not stage or stage in STAGES):
        _, parse, rule = _SETTINGS[setting]
    else:
        raise UsageError(
            f"--over is {text!r}; it must be {', '.join(NAMED)}, or one of {', '.join(STAGES)}, "
            f"{', '.join(_SETTINGS)}, these also as {STAGES[0]}.{next(iter(_SETTINGS))}, an equals "
            "sign, and values with commas between them."
        )
    read = []
    for value in values.split(","):
        try:
            read.append(parse(value.strip()))
        except ValueError:
            raise UsageError(
                f"--over is {text!r}; {value.strip()!r} is not {rule}, as each value must be."
            ) from None
    for value, count in Counter(read).items():
        if count > 1:
            raise UsageError(f"--over is {text!r}; {value} comes {count} times.")
    return Axis(name, tuple(read))


def read_axes(texts: Sequence[str]) -> list[Axis]:
    """All of them.

    Raises:
        UsageError: as `read_axis`, or there is none, or one is named twice.
    """
    axes = [read_axis(text) for text in texts]
    if not axes:
        raise UsageError("There is nothing to vary; name it with --over, as in guidance=1,2,4.")
    for name, count in Counter(axis.name for axis in axes).items():
        if count > 1:
            raise UsageError(f"--over names {name} {count} times.")
    return axes


def points_of(axes: Sequence[Axis]) -> list[Point]:
    """Every combination of values, the first axis the quickest to change.

    Raises:
        UsageError: they are too many to be meant.
    """
    count = math.prod(len(axis.values) for axis in axes)
    if count > _MOST_POINTS:
        raise UsageError(f"--over makes {count} points; there may be {_MOST_POINTS} of them.")
    values = [axis.values for axis in reversed(axes)]
    names = [axis.name for axis in reversed(axes)]
    return [
        dict(reversed(list(zip(names, combination, strict=True))))
        for combination in itertools.product(*values)
    ]


def stages_in(point: Point) -> dict[str, str]:
    """The stages that a point has in the place of others."""
    return {name: value for name, value in point.items() if name in STAGES}


def settings_in(point: Point, settings: dict[str, list[Any]], count: int) -> dict[str, list[Any]]:
    """Fields of `SamplingConfig` for each of `count` stages, those of the point before others.

    Raises:
        UsageError: the point has a setting of a stage that the cascade has not.
    """
    changed = {name: list(values) for name, values in settings.items()}
    # Those of one stage last: they stand above those of all, whichever was named first.
    for name, value in sorted(point.items(), key=lambda item: "." in item[0]):
        stage, _, setting = name.rpartition(".")
        if name in STAGES:
            continue
        places = [STAGES.index(stage)] if stage else list(range(count))
        if places[-1] >= count:
            raise UsageError(f"--over names {name}; the cascade ends after {STAGES[count - 1]}.")
        field = _SETTINGS[setting][0]
        own = changed.setdefault(field, [None] * count)
        for place in places:
            own[place] = value
        if field == "num_steps":
            chosen = changed.setdefault("timesteps", [None] * count)
            for place in places:
                chosen[place] = ()
    return changed


def directory_name(point: Point) -> str:
    """A name for what is kept of a point, the same in every sweep that has it."""
    said = ",".join(f"{name}={value}" for name, value in sorted(point.items()))
    plain = re.sub(r"[^\w.=,-]", "_", said, flags=re.ASCII)[:_LONGEST_NAME]
    return f"{plain}-{digest(json.loads(json.dumps(point)))[:8]}"
