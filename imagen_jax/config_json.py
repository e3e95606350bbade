"""Configs as JSON: what travels with every checkpoint and exported file."""

import dataclasses
import json

import pydantic

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError

_STAGE = pydantic.TypeAdapter(StageConfig)


def to_json(config: StageConfig) -> str:
    """The config as readable JSON; `from_json` gives it back."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str | bytes, origin: str) -> StageConfig:
    """The config in `text`; `origin` (a path) is named in the error.

    Raises:
        UsageError: not JSON, an unknown or missing field, or a value that breaks a rule.
    """
    try:
        return _STAGE.validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if isinstance(first.get("ctx", {}).get("error"), UsageError):
            raise UsageError(f"{origin}: {first['ctx']['error']}") from error
        field = ".".join(str(part) for part in first["loc"]) or "the config"
        raise UsageError(f"{origin}: {field}: {first['msg']}.") from error
