"""Digests of what is written as JSON, by which a reader sees that it has changed. No JAX here."""

import hashlib
import json
from typing import Any

from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import read_object

_NAME = "sha256"
Values = dict[str, Any]


def digest(values: Values) -> str:
    """The digest of the values and not of their spelling: order and spaces do not matter."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(values: Values) -> Values:
    """The values and, as the last one, their digest; `unsealed` takes it off again."""
    return {**values, _NAME: digest(values)}


def unsealed(values: Values, origin: str) -> Values:
    """The values without their digest; those of an older version have none and pass.

    Raises:
        UsageError: they are not those that were written to `origin`, a path.
    """
    rest = {name: value for name, value in values.items() if name != _NAME}
    if _NAME in values and values[_NAME] != digest(rest):
        raise UsageError(f"{origin} is not as it was written: it does not match its {_NAME}.")
    return rest


def read_sealed(path: AnyPath) -> Values:
    """The values in a JSON file, of a kind that has had its digest from the first version on.

    Raises:
        UsageError: it cannot be read, or they are not those that were written.
    """
    values = read_object(path)
    if _NAME not in values:
        raise UsageError(f"{path} is not as it was written: it has no {_NAME}.")
    return unsealed(values, str(path))
