"""Checks of single config fields; each raises a UsageError that names value and rule."""

from typing import Any, get_args

from imagen_jax.errors import UsageError


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{type(config).__name__}.{name} is {value!r}; it must be positive.")


def require_at_most(config: object, most: int, **numbers: int) -> None:
    """Numbers that follow from a config, so that a slip ends before memory is taken."""
    for name, number in numbers.items():
        require(
            number <= most,
            f"{type(config).__name__}.{name} is {number}; it must be at most {most:,}.",
        )


def require_all_positive(config: object, *names: str) -> None:
    """Fields that are tuples of numbers."""
    for name in names:
        values = getattr(config, name)
        require(
            all(value > 0 for value in values),
            f"{type(config).__name__}.{name} is {values}; all of it must be positive.",
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
