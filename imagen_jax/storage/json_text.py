"""JSON that may be anyone's: an object, or one sentence that says why it is none. No JAX here."""

import json
import reprlib
from typing import Any, NoReturn

from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import AnyPath

_MOST_BYTES = 2**28
"""Of a file; no config, index, vocabulary or manifest comes near it."""

_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlist, _SHORT.maxdict = 100, 20, 20


def read_object(path: AnyPath) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UsageError: the file cannot be read, is too large, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}.") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} is not JSON: it has more than {_MOST_BYTES:,} bytes.")
    return parse_object(data, str(path))


def parse_object(data: bytes | str, origin: str) -> dict[str, Any]:
    """The JSON object in `data`; `origin` is named in the error.

    Raises:
        UsageError: it is not JSON, is nested too deeply to be read, or is no object.
    """
    try:
        content = json.loads(data, parse_constant=_refuse)
    # Not UTF-8 and numbers of too many digits are ValueErrors too.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{origin} is not JSON: {reason(error)}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{origin} holds a {type(content).__name__}; it must be a JSON object.")
    return content


def _refuse(constant: str) -> NoReturn:
    """Refuses NaN and the infinities, which Python would take."""
    raise ValueError(f"it has {constant}, which is no number of JSON")


def is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold; True and False are none."""
    return type(value) in (int, float) and abs(value) < 1e300


def shown(value: Any) -> str:
    """A value as an error quotes it: what is long or nested deeply is cut."""
    return _SHORT.repr(value)
