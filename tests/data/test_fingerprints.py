"""Data are known again: by names, sizes and times of files, and by what is taken of them."""

import os
from pathlib import Path

import msgpack
import numpy as np
import pytest
import tiny
from shards import sample, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data.arrayrecord_source import write_file
from imagen_jax.data.sources import open_source
from imagen_jax.pipeline.sheets import save_png


@pytest.fixture
def data(tmp_path):
    """The same two pictures in each kind of files."""
    tiny.folder(tmp_path / "folder", 2)
    (tmp_path / "tars").mkdir()
    for number in range(2):
        files = sample(number, score=number)
        write_shard(tmp_path / "tars" / f"{number}.tar", [files])
        record = msgpack.packb({"image": files["png"], "captions": ["a picture"]})
        write_file(tmp_path / "records" / f"{number}.arrayrecord", iter([record]))
    return tmp_path


def fingerprint(source="", **fields):
    return open_source(DataConfig(source=source, **fields)).fingerprint


def later(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))


@pytest.mark.parametrize(
    ("kind", "file"),
    [("folder", "01.txt"), ("folder", "00.png"), ("tars", "1.tar"), ("records", "0.arrayrecord")],
)
def test_a_file_with_another_time_or_name_is_noticed(data, kind, file):
    prefix = {"folder": "folder:", "tars": "webdataset:", "records": "arrayrecord:"}[kind]
    mixture = (f"1*{prefix}{data / kind}", f"1*{prefix}{data / kind}")
    kinds = lambda: (fingerprint(f"{prefix}{data / kind}"), fingerprint(mixture=mixture))  # noqa: E731
    before = kinds()
    assert kinds() == before
    later(data / kind / file)
    retimed = kinds()
    os.rename(data / kind / file, data / kind / f"9{file}")
    renamed = kinds() if kind != "folder" else None
    for one, other, third in zip(before, retimed, renamed or [None, None], strict=True):
        assert len({one, other, third}) == 3


def test_another_file_and_another_order_of_a_mixture_are_noticed(data):
    source = f"folder:{data / 'folder'}"
    parts = (f"1*{source}", f"1*webdataset:{data / 'tars'}")
    mixtures = {fingerprint(mixture=parts), fingerprint(mixture=parts[::-1])}
    before = fingerprint(source)
    save_png(np.zeros((4, 4, 3), np.uint8), data / "folder" / "02.png")
    (data / "folder" / "02.txt").write_text("new")
    assert len({before, fingerprint(source), *mixtures}) == 4


def test_what_filters_take_is_noticed(data):
    source = f"webdataset:{data / 'tars'}"
    taken = [fingerprint(source, filters=filters) for filters in ((), ("score>=0",), ("score>=1",))]
    assert len(set(taken)) == 3
