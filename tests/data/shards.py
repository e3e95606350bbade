"""Pictures, and tar shards of them as img2dataset writes them."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(value: int, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    """A plain grey one."""
    data = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(data, kind)
    return data.getvalue()


def sample(value: int, size: tuple[int, int] = (8, 8), **numbers: float) -> dict[str, bytes]:
    """A picture with its caption and JSON, by suffix; the first pixel and the caption agree."""
    described = {"caption": f"{value} 1", "url": "http://x", "status": "success", **numbers}
    return {
        "png": picture(value, size), "json": json.dumps(described).encode(),
        "txt": f"{value} 1".encode(),
    }  # fmt: skip


def write_shard(path: Path, samples: Iterable[dict[str, bytes]]) -> None:
    """The times are fractions, as WebDataset's are: each header gets an extension of its own."""
    with tarfile.open(path, "w") as shard:
        for number, files in enumerate(samples):
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{number:09}.{suffix}")
                member.size, member.mtime = len(data), 1700000000.5
                shard.addfile(member, io.BytesIO(data))


def tokenize(texts):
    """The number of the caption and of its wording, padded."""
    ids = np.zeros((len(texts), 4), np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[:2] = [int(number) for number in text.split()]
    return {"token_ids": ids, "mask": np.broadcast_to(np.arange(4) < 2, ids.shape).copy()}
