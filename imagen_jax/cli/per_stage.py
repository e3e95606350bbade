"""Flags that take one value, or several with commas between them, mostly one a stage: 3,1,1."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from imagen_jax.config.choices import Inpainting, SamplerName, Thresholding, Weights
from imagen_jax.errors import UsageError

Value = TypeVar("Value")


_BY_CONFIG = "what each stage's config says"


def _flag(
    kind: Any,
    parse: Callable[[str], Any],
    metavar: str,
    rule: str,
    default: str = _BY_CONFIG,
    each: str = "stage",
) -> Any:
    """The type of such a field. `parse` raises a ValueError for what breaks the `rule`."""

    def values(texts: list[str]) -> tuple[Any, ...]:
        try:
            return tuple(parse(text.strip()) for text in texts[0].split(","))
        except ValueError:
            raise ValueError(
                f"{texts[0]!r} was given; it must be {rule}, or one for each {each} with commas "
                "between them."
            ) from None

    spec = PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{metavar}[,{metavar}...]",
        instance_from_str=values,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )
    hint = tyro.conf.arg(help_behavior_hint=f"(default: {default})")
    return Annotated[tuple[kind, ...], spec, hint]


def _steps(text: str) -> int | str:
    """A number of steps, or the name of a set of them."""
    return text if text.isidentifier() else _count(text)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _class(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise ValueError
    return number


def _path(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)


def _choice(choices: Any, default: str = _BY_CONFIG) -> Any:
    names = get_args(choices)

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return _flag(str, parse, "NAME", f"{', '.join(names[:-1])} or {names[-1]}", default)


Steps = _flag(int | str, _steps, "N", "a whole number of at least 1")
Scale = _flag(float, _finite, "W", "a finite number")
Fraction = _flag(float, _fraction, "A", "a number between 0 and 1")
Samplers = _choice(SamplerName)
Strengths = _flag(
    float, _fraction, "S", "a number between 0 and 1", "0.7, with a mask or more pixels 1"
)
Shares = _flag(float, _fraction, "M", "a number between 0 and 1", "0.5")
Inpaintings = _choice(Inpainting, "repaint, of DeepFloyd IF's stages clean")
Resamplings = _flag(int, _count, "N", "a whole number of at least 1", "5 in the base, else 1")
Thresholdings = _choice(Thresholding)
WhichWeights = _choice(Weights, "ema, or what an exported file holds")
Classes = _flag(int, _class, "N", "a whole number from 0", "none", each="subject")
Directories = _flag(Path, _path, "DIR", "a directory", "none")


def for_stages(flag: str, values: tuple[Value, ...], count: int) -> list[Value | None]:
    """One value for each of `count` stages; None where the stage's config decides.

    Raises:
        UsageError: neither one value nor `count`.
    """
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise UsageError(
            f"{flag} has {len(values)} values, but {count} stages run; give one for all, or one "
            "for each."
        )
    return list(values) * (count if len(values) == 1 else 1)
