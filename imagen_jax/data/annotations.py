"""Files of a record and what they may hold: a picture, its captions in text, numbers in JSON."""

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from imagen_jax.data.records import BrokenRecord, ListedCaptions

PICTURE_SUFFIXES = (
    ".bmp",
    ".gif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)
OTHER_PICTURE_SUFFIXES = (
    *(".avif", ".avifs", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl"),
    *(".apng", ".cur", ".dds", ".dib", ".exr", ".fits", ".hdr", ".icns", ".ico", ".mpo"),
    *(".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".qoi", ".ras", ".sgi", ".tga", ".xbm"),
    *(".emf", ".eps", ".kra", ".psb", ".psd", ".svg", ".svgz", ".wmf", ".xcf", ".xpm"),
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
"""Pictures too, the last ones as cameras have taken them, but not read: they are counted."""
NOT_READ = "format is not read"
MAX_PICTURE_BYTES = 2**27
"""A picture's file that is larger is left out unread."""
MAX_TEXT_BYTES = 2**20
"""Of a caption or JSON file; more is none."""
_KEYS = ("caption", "captions", "text")
"""Of a JSON object, the first of which holds a caption or a list of them."""
_UNSEEN = ("Cc", "Cf", "Mn", "Zl", "Zp", "Zs")
"""Of Unicode's categories."""
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters of other categories that are seen as spaces."""


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


def listed(texts: Sequence[Any], name: str) -> ListedCaptions:
    """The captions in `texts` that are not blank; at least one."""
    captions = tuple(text.strip() for text in texts if not is_blank(text))
    if not captions:
        raise BrokenRecord(name, "no caption")
    for caption in captions:
        if len(caption) > MAX_TEXT_BYTES:
            raise BrokenRecord(name, "caption too long")
        try:
            caption.encode()
        except UnicodeEncodeError as error:
            raise BrokenRecord(name, "caption not UTF-8", error.reason) from error
    return ListedCaptions(captions)


def is_blank(text: Any) -> bool:
    """Whether there is nothing to see: spaces, controls, marks of byte order or direction."""
    return not isinstance(text, str) or all(
        unicodedata.category(letter) in _UNSEEN or letter in _FILLERS for letter in text
    )


def captions_of(values: Mapping[str, Any], name: str) -> ListedCaptions:
    """The captions in a JSON object or the like: of the first name that has any."""
    found = (values[key] for key in _KEYS if key in values)
    lists = (value if isinstance(value, list | tuple) else [value] for value in found)
    return listed(next((texts for texts in lists if not all(map(is_blank, texts))), []), name)


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a finite number."""
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
    return {k: float(v) for k, v in numbers.items() if abs(v) < 2**1000 and math.isfinite(v)}
