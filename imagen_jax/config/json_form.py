"""Configs as JSON: what travels with every checkpoint and exported file."""

import dataclasses
import hashlib
import json
from typing import Any, TypeVar

import pydantic

from imagen_jax.config import StageConfig
from imagen_jax.config.checked import Checked
from imagen_jax.errors import UsageError
from imagen_jax.storage.json_text import parse_object

_SUM = "sha256"
Config = TypeVar("Config", bound=Checked)


def to_json(config: Checked) -> str:
    """The config as readable JSON; `from_json` gives it back."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str | bytes, origin: str, kind: type[Config] = StageConfig) -> Config:
    """The config in `text`; `origin` (a path) is named in the error.

    Raises:
        UsageError: not JSON, an unknown or missing field, or a value that breaks a rule.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if isinstance(first.get("ctx", {}).get("error"), UsageError):
            raise UsageError(f"{origin}: {first['ctx']['error']}") from error
        field = ".".join(str(part) for part in first["loc"]) or "the config"
        raise UsageError(f"{origin}: {field}: {first['msg']}.") from error


def to_sealed_json(config: Checked) -> str:
    """`to_json` with a sum of it, for what nobody edits."""
    values = dataclasses.asdict(config)
    return json.dumps(values | {_SUM: _sum_of(values)}, indent=2)


def from_sealed_json(text: str | bytes, origin: str, kind: type[Config]) -> Config:
    """`from_json` of what `to_sealed_json` wrote, or `to_json` as older versions did.

    Raises:
        UsageError: as `from_json`, or something in it has changed since.
    """
    values = parse_object(text, origin)
    if values.pop(_SUM, None) not in (None, _sum_of(values)):
        raise UsageError(f"{origin} is damaged: it is not what was written.")
    return from_json(json.dumps(values), origin, kind)


def _sum_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def first_difference(one: Checked, other: Checked) -> tuple[str, Any, Any] | None:
    """Name ("part.field") and both values of the first field in which two configs differ."""
    for field in dataclasses.fields(one):
        values = getattr(one, field.name), getattr(other, field.name)
        if values[0] == values[1]:
            continue
        if isinstance(values[0], Checked) and type(values[0]) is type(values[1]):
            name, *inner = first_difference(*values)
            return f"{field.name}.{name}", *inner
        return field.name, *values
    return None
