"""Sums in the header of a safetensors file: is it still what was written?

One CRC-32 for each tensor's bytes, and one for what the header says beside them. They find what
disks, copies and downloads do to a file, not what someone does to it on purpose. Files of
others, and those that older versions of this package wrote, have none.
"""

import json
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import parse_object

_KEY = "imagen-jax crc32"
Shapes = Mapping[str, Sequence[int]]


def checksum(data: bytes | np.ndarray, before: str = "00000000") -> str:
    """Eight digits for bytes, or an array of them; `before` is the sum of those in front."""
    return f"{zlib.crc32(data, int(before, 16)):08x}"


def with_sums(about: dict[str, str], shapes: Shapes, sums: Mapping[str, str]) -> dict[str, str]:
    """What a header says of a file, `about`, and the sums of tensors with these shapes.

    It is as long whatever the sums are.
    """
    sums = {"header": _of_header(about, shapes), "tensors": dict(sums)}
    return about | {_KEY: json.dumps(sums)}


def read_sums(
    about: dict[str, str], shapes: Shapes, path: AnyPath
) -> tuple[dict[str, str], dict[str, str]]:
    """`about` and the tensors' sums as `with_sums` was given them; no sums where it was not.

    Raises:
        UsageError: the header, of the file at `path`, is not the one that was written.
    """
    if _KEY not in about:
        return about, {}
    rest = {name: text for name, text in about.items() if name != _KEY}
    sums = parse_object(about[_KEY], f"{path}: {_KEY}")
    tensors = sums.get("tensors")
    whole = isinstance(tensors, dict) and tensors.keys() == shapes.keys()
    whole = whole and all(isinstance(found, str) and found for found in tensors.values())
    if not whole or sums.get("header") != _of_header(rest, shapes):
        raise UsageError(f"{path} is damaged: its header is not the one that was written.")
    return rest, tensors


def _of_header(about: Mapping[str, str], shapes: Shapes) -> str:
    content = [sorted(about.items()), sorted((name, list(x)) for name, x in shapes.items())]
    return checksum(json.dumps(content).encode())
