"""Files of a record and what they may hold: a picture, its captions in text, numbers in JSON."""

import json
import math
from collections.abc import Mapping
from typing import Any

from imagen_jax.data.records import BrokenRecord, ListedCaptions

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PICTURE_BYTES = 2**27
"""A picture's file that is larger is left out unread."""
MAX_TEXT_BYTES = 2**20
"""Of a caption or JSON file; more is none."""
_KEYS = ("caption", "captions", "text")
"""Of a JSON object, the first of which holds a caption or a list of them."""


def too_large(name: str, size: int) -> BrokenRecord:
    return BrokenRecord(name, "picture too large", f"{size} bytes")


def read_text(data: bytes, name: str) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise BrokenRecord(name, "caption too long")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenRecord(name, "caption not UTF-8", str(error)) from error


def read_json(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `data`; empty for no data."""
    if not data:
        return {}
    try:
        value = json.loads(data) if len(data) <= MAX_TEXT_BYTES else None
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(name, "JSON unreadable", str(error)) from error
    if not isinstance(value, dict):
        raise BrokenRecord(name, "JSON unreadable", "it must be one object")
    return value


def listed(texts: list[Any], name: str) -> ListedCaptions:
    """The captions in `texts` that are not blank; at least one."""
    captions = tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
    if not captions:
        raise BrokenRecord(name, "no caption")
    return ListedCaptions(captions)


def captions_of(values: Mapping[str, Any], name: str) -> ListedCaptions:
    """The captions in a JSON object or the like."""
    value = next((values[key] for key in _KEYS if values.get(key)), [])
    return listed(value if isinstance(value, list | tuple) else [value], name)


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a finite number."""
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
    return {k: float(v) for k, v in numbers.items() if abs(v) < 2**1000 and math.isfinite(v)}
