"""Checks of single config fields; each raises a UsageError that names value and rule."""

import dataclasses
import reprlib
from typing import Any, get_args

from imagen_jax.errors import UsageError

_LARGEST = 3.4028234663852886e38
"""What all numbers become is float32."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def require_finite(config: object) -> None:
    """All numbers of a config, whatever else each must be: none is NaN, infinite or too large."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        parts = value if isinstance(value, tuple) else (value,)
        require(
            all(abs(part) <= _LARGEST for part in parts if isinstance(part, int | float)),
            f"{type(config).__name__}.{field.name} is {reprlib.repr(value)}; it must be finite, "
            f"and at most {_LARGEST:.2g}.",
        )


def require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{type(config).__name__}.{name} is {value!r}; it must be positive.")


def require_not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        said = f"{type(config).__name__}.{name} is {value!r}"
        require(value >= 0, f"{said}; it must not be negative.")


def require_at_most(config: object, most: int, **numbers: int | float) -> None:
    """Numbers that follow from a config, so that a slip ends before memory is taken."""
    for name, number in numbers.items():
        require(
            number <= most,
            f"{type(config).__name__}.{name} is {reprlib.repr(number)}; it must be at most "
            f"{most:,}.",
        )


def require_all_positive(config: object, *names: str) -> None:
    """Fields that are tuples of numbers."""
    for name in names:
        values = getattr(config, name)
        require(
            all(value > 0 for value in values),
            f"{type(config).__name__}.{name} is {reprlib.repr(values)}; all of it must be "
            "positive.",
        )


def require_choice(config: object, **choices: Any) -> None:
    """Fields that must be one of a Literal's values."""
    for name, choice in choices.items():
        value, known = getattr(config, name), get_args(choice)
        require(
            value in known,
            f"{type(config).__name__}.{name} is {value!r}; it must be one of {', '.join(known)}.",
        )


def require_fraction(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(
            0.0 <= value <= 1.0,
            f"{type(config).__name__}.{name} is {value!r}; it must lie between 0 and 1.",
        )
