"""Configs as JSON: what travels with every checkpoint and exported file."""

import dataclasses
import json
from typing import TypeVar

import pydantic

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError
from imagen_jax.network_config import Checked

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
