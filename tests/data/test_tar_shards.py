"""Tar shards as other programs, other habits and damage make them."""

import contextlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from shards import picture, sample, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data import webdataset_source
from imagen_jax.data.sources import open_source
from imagen_jax.data.tar_members import DamagedTar, Window, members
from imagen_jax.errors import UsageError


def open_shards(place, **fields):
    return open_source(DataConfig(source=f"webdataset:{place}", **fields))


def texts(source):
    return [source[index].captions.all()[0] for index in range(len(source))]


def write(path, files, kinds=None, **pax):
    """`files`: name -> content; `kinds`: name -> (type, link); `pax`: headers of every member."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as shard:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(data), pax
            if kinds and name in kinds:
                member.type, member.linkname = kinds[name]
            shard.addfile(member, io.BytesIO(data))


def header(size: bytes, kind: bytes = b"0", name: bytes = b"a.png") -> bytes:
    """Of a member whose size field is `size`, with the sum that fits."""
    data = bytearray(512)
    data[:100] = name.ljust(100, b"\0")
    data[124:136], data[148:156] = size.ljust(12, b"\0"), b" " * 8
    data[156:157], data[257:265] = kind, b"ustar\x0000"
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def pax(*records: bytes) -> bytes:
    """A member that gives the next one's fields."""
    data = b"".join(records)
    return header(b"%011o" % len(data), b"x") + data.ljust(-(-len(data) // 512) * 512, b"\0")


END = bytes(1024)


def found(archive: bytes) -> list[str]:
    return [m.name for m in members(Window(lambda s, n: archive[s : s + n], 512), len(archive))]


FIRST = header(b"5", name=b"first.txt") + b"hello".ljust(512, b"\0")
LIES = {
    "more than there is": header(b"77777777777"),
    "negative": header(b"-1"),
    "with a sign": header(b"+7"),
    "with an underscore": header(b"1_0"),
    "no number": header(b"abc"),
    "binary, huge": header(b"\x80" + b"\xff" * 11),
    "binary, negative": header(b"\xff" * 12),
    "5,000 digits": pax(b"5012 size=" + b"9" * 5001 + b"\n") + header(b"0"),
    "extension without a length": pax(b" size=1\n") + header(b"0"),
    "extension of length 0": pax(b"0 size=1\n") + header(b"0"),
    "extension of a negative length": pax(b"-9 size=1\n") + header(b"0"),
    "extension that ends late": pax(b"99 size=1\n") + header(b"0"),
    "extension of no number": pax(b"11 size=-1\n") + header(b"0"),
    "long name of 8 GiB": header(b"\x80" + (2**33).to_bytes(11), b"L"),
    "extension beyond the end": header(b"7777", b"x"),
    "sparse without end": header(b"0", b"S")[:482] + b"\1" + header(b"0", b"S")[483:],
    "wrong sum": header(b"0").replace(b"a.png", b"b.png"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_ends_the_shard_as_damaged(lie, tmp_path):
    archive = FIRST + LIES[lie] + bytes(1024)
    names = []
    with pytest.raises(DamagedTar):
        for name in members(Window(lambda s, n: archive[s : s + n], 512), len(archive)):
            names.append(name.name)
    assert names == ["first.txt"]
    (tmp_path / "0.tar").write_bytes(archive)
    with pytest.raises(UsageError, match="1 shard cut short or damaged"):
        open_shards(tmp_path)


def test_sizes_and_names_in_extensions_are_read():
    large = pax(b"12 size=513\n") + header(b"0") + bytes(1024)
    renamed = pax(b"15 path=ab.txt\n") + header(b"0")
    binary = header(b"\x80" + (3).to_bytes(11), name=b"c.txt") + bytes(512)
    linked = header(b"3", b"K") + bytes(512) + header(b"777", b"2", b"link") + FIRST
    assert found(large + renamed + binary + linked + END) == [
        "a.png", "ab.txt", "c.txt", "link", "first.txt"
    ]  # fmt: skip


HOLES = {
    "empty": lambda whole: b"",
    "cut between two files": lambda whole: whole[: whole.index(b"000000002.png")],
    "without the blocks that end it": lambda whole: whole.rstrip(b"\0") + bytes(512),
    "blank, but for its end": lambda whole: bytes(512) + bytes(len(whole) - 512) + b"x" * 512,
}


@pytest.mark.parametrize("hole", HOLES)
def test_what_a_shard_has_lost_is_said(hole, tmp_path):
    samples = [sample(number) for number in range(4)]
    write_shard(tmp_path / "0.tar", samples)
    write_shard(tmp_path / "1.tar", samples)
    damaged = HOLES[hole]((tmp_path / "1.tar").read_bytes())
    (tmp_path / "1.tar").write_bytes(damaged[: len(damaged) // 512 * 512])
    with pytest.warns(UserWarning, match=r"shard cut short or damaged \(as 1\.tar\)"):
        source = open_shards(tmp_path, max_broken_share=1.0)
    assert 4 <= len(source) <= 8


def test_archives_one_behind_another_are_read_as_one(tmp_path):
    both = []
    for numbers in ((1, 2), (3,)):
        write_shard(tmp_path / "x", map(sample, numbers))
        both.append((tmp_path / "x").read_bytes())
    (tmp_path / "0.tar").write_bytes(b"".join(both))
    source = open_shards(tmp_path)
    assert texts(source) == ["1 1", "2 1", "3 1"]


def test_a_changed_byte_of_a_header_is_never_another_record(tmp_path):
    """Whatever byte it is: the record is as it was, or the shard is damaged from there on."""
    write_shard(tmp_path / "0.tar", [sample(1), sample(2)])
    whole = (tmp_path / "0.tar").read_bytes()
    names, rng = found(whole), np.random.default_rng(0)
    for place in rng.integers(512, size=200):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(DamagedTar):
            assert found(bytes(changed)) == names


def test_links_and_sparse_files_are_counted_as_what_they_are(tmp_path):
    files = [
        ("0.png", picture(0)), ("0.txt", b"0"), ("1.png", picture(1)), ("1.txt", b""),
        ("2.png", b""), ("2.txt", b"2"),
    ]  # fmt: skip
    kinds = {"1.txt": (tarfile.LNKTYPE, "0.txt"), "2.png": (tarfile.SYMTYPE, "0.png")}
    write(tmp_path / "0.tar", files, kinds)
    write(tmp_path / "1.tar", [("3.png", picture(3)), ("3.txt", b"3")], **{"GNU.sparse.major": "1"})
    with pytest.warns(UserWarning, match=r"2 file is a link .*0.tar/1.*1 file is sparse .*1.tar/3"):
        source = open_shards(tmp_path, max_broken_share=0.9)
    assert texts(source) == ["0"]


def test_what_macos_adds_is_passed_over(tmp_path):
    """Its own files begin with a dot and stand between those of a record."""
    files = [
        (f"./{hidden}{v}.{suffix}", data if not hidden else b"\x00\x05\x16\x07")
        for v in range(3)
        for suffix, data in (("png", picture(v)), ("txt", f"{v}".encode()))
        for hidden in ("._", "")
    ]
    write(tmp_path / "0.tar", [*files, ("./.hidden/9.png", picture(9)), ("__MACOSX/._9.txt", b"")])
    assert texts(open_shards(tmp_path, max_broken_share=0.0)) == ["0", "1", "2"]


def test_names_with_more_than_one_dot_are_counted(tmp_path):
    plain = [("0.png", picture(0)), ("0.txt", b"0"), ("0.mask.png", picture(1))]
    dotted = [(f"v1.{v}.{s}", picture(v) if s == "png" else b"a") for v in (0, 1) for s in
              ("png", "txt")]  # fmt: skip
    write(tmp_path / "0.tar", plain + dotted)
    says = r"2 of 3 .*: 2 more than one dot in the name \(as 0.tar/v1.0.png\)"
    with pytest.warns(UserWarning, match=says):
        assert texts(open_shards(tmp_path, max_broken_share=0.7)) == ["0"]
    write(tmp_path / "0.tar", [*dotted, ("v2.0.avif", b""), ("v2.0.txt", b"a")])
    with pytest.raises(UsageError, match="can be used: 3 more than one dot in the name"):
        open_shards(tmp_path)


def test_files_of_a_record_that_stand_apart_are_called_that(tmp_path):
    pictures = [(f"{v}.png", picture(v)) for v in range(3)]
    write(tmp_path / "0.tar", [*pictures, *((f"{v}.txt", b"a") for v in range(3))])
    with pytest.raises(UsageError, match=r"used: 3 files of a record not one after another \(as"):
        open_shards(tmp_path)


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path):
    jpegs = [(f"0.{s}", picture(0, kind="JPEG") if s == "jfif" else b"0") for s in ("jfif", "txt")]
    write(tmp_path / "0.tar", [*jpegs, ("1.heic", b"?"), ("1.txt", b"1"),
                                  ("2.eps", b"?"), ("2.txt", b"2")])  # fmt: skip
    with pytest.warns(UserWarning, match=r"2 format is not read \(as 0.tar/1\)"):
        assert texts(open_shards(tmp_path, max_broken_share=0.7)) == ["0"]


def test_a_large_file_between_those_of_a_record_is_not_read(tmp_path, monkeypatch):
    reads = []
    read_part = webdataset_source.read_part
    monkeypatch.setattr(
        webdataset_source, "read_part", lambda *args: reads.append(args[2]) or read_part(*args)
    )
    monkeypatch.setattr(webdataset_source, "_AT_ONE_GO", 10_000)
    write(tmp_path / "0.tar", [("0.png", picture(7)), ("0.mp4", bytes(10**5)), ("0.txt", b"0")])
    record = open_shards(tmp_path)[0]
    assert record.image == picture(7) and record.captions.all() == ("0",)
    assert record.name == "0.tar/0.png" and sum(reads) < 5000


def test_an_index_without_records_is_one(tmp_path):
    """And it is made again when the shards are mended."""
    write(tmp_path / "0.tar", [("0.png", picture(0))])
    for _ in range(2):
        with pytest.raises(UsageError, match="holds no record that can be used: 1 no caption"):
            open_shards(tmp_path)
    write(tmp_path / "0.tar", [("0.png", picture(0)), ("0.txt", b"0")])
    assert texts(open_shards(tmp_path)) == ["0"]


def test_a_directory_that_is_not_utf_8_has_its_index(tmp_path):
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    directory.mkdir()
    write_shard(directory / "0.tar", [sample(1, similarity=0.1), sample(2, similarity=0.2)])
    for _ in range(2):
        assert texts(open_shards(directory, filters=("similarity>0.1",))) == ["2 1"]


def test_a_pipe_where_the_index_lies_is_not_waited_for(tmp_path):
    write_shard(tmp_path / "0.tar", [sample(1)])
    open_shards(tmp_path)
    (index,) = (tmp_path / ".imagen_jax").iterdir()
    index.unlink()
    os.mkfifo(index)
    assert texts(open_shards(tmp_path)) == ["1 1"]


@pytest.mark.parametrize("kind", ["members", "numbers"])
def test_one_changed_bit_anywhere_makes_an_index_anew(kind, tmp_path):
    write_shard(tmp_path / "0.tar", [sample(v, similarity=v / 10) for v in range(1, 4)])
    filters = ("similarity>=0.2",)
    open_shards(tmp_path, filters=filters)
    (index,) = (tmp_path / ".imagen_jax").glob(f"*.{kind}")
    whole, rng, remade = index.read_bytes(), np.random.default_rng(0), 0
    places = {*range(8), *rng.integers(len(whole), size=60).tolist(), len(whole) - 1}
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        index.write_bytes(damaged)
        assert texts(open_shards(tmp_path, filters=filters)) == ["2 1", "3 1"]
        assert index.read_bytes() in (whole, bytes(damaged))
        remade += index.read_bytes() == whole
    assert remade > 0.9 * len(places)  # Some bits fill gaps between arrays.
