"""Whether all of a checkpoint's arrays can be found again, without reading them."""

import collections
import json
import math
from collections.abc import Collection
from pathlib import Path

import tensorstore

from imagen_jax.storage.files import AnyPath

_HEADER = ".zarray"


def missing(item: AnyPath, names: Collection[str]) -> list[str]:
    """The arrays of an item of a checkpoint that lack their header or a part.

    It reads the item's index and the arrays' headers: some hundred bytes an array and part.

    Raises:
        ValueError: there is no such index, or it is damaged.
    """
    base = {"driver": "file", "path": f"{item}/"} if isinstance(item, Path) else f"{item}/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = [key.decode() for key in store.list().result()]
    parts = collections.Counter(
        name for name, _, last in (key.rpartition("/") for key in keys) if last != _HEADER
    )
    headers = {key.removesuffix(f"/{_HEADER}"): store.read(key) for key in keys if _HEADER in key}
    wanted = {name: _parts(header.result().value) for name, header in headers.items()}
    return [name for name in names if name not in wanted or parts[name] != wanted[name]]


def _parts(header: bytes) -> int:
    """How many an array is stored in."""
    array = json.loads(header)
    sizes = zip(array["shape"], array["chunks"], strict=True)
    return math.prod(-(-side // part) for side, part in sizes)
