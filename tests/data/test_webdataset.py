"""Tar shards: what is read of them, and the index that finds it."""

import concurrent.futures
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from shards import picture, sample, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data import tar_index, webdataset_source
from imagen_jax.data.records import BrokenRecord
from imagen_jax.data.sources import open_source
from imagen_jax.data.tar_members import DamagedTar, Window, members
from imagen_jax.errors import UsageError


def open_shards(place, **fields):
    return open_source(DataConfig(source=f"webdataset:{place}", **fields))


@pytest.fixture
def directory(tmp_path):
    """Three shards of four records each, 1 to 12."""
    for shard in range(3):
        values = range(4 * shard + 1, 4 * shard + 5)
        write_shard(tmp_path / f"{shard:05}.tar", [sample(v, similarity=v / 10) for v in values])
    return tmp_path


def texts(source):
    return [source[index].captions.all() for index in range(len(source))]


def test_records_come_in_the_order_of_the_shards_with_their_very_bytes(directory):
    source = open_shards(directory)
    assert len(source) == 12
    for index in range(12):
        record = source[index]
        assert record.image == picture(index + 1) and not record.pictures
        assert record.captions.all() == (f"{index + 1} 1",)
        assert record.name == f"{index // 4:05}.tar/{index % 4:09}.png"


def test_metadata_has_the_caption_and_the_numbers_of_the_json(directory):
    metadata = open_shards(directory).metadata(6)
    assert metadata.captions.all() == ("7 1",)
    assert metadata.numbers == {"similarity": 0.7}


@pytest.mark.parametrize(
    ("files", "captions"),
    [
        ({"jpg": picture(1, kind="JPEG"), "txt": b" two\nlines \n"}, ("two lines",)),
        ({"webp": picture(1, kind="WEBP"), "json": b'{"caption": "a"}'}, ("a",)),
        ({"png": picture(1), "json": b'{"captions": ["a", " ", "b"]}'}, ("a", "b")),
        ({"PNG": picture(1), "txt": "é 猫".encode(), "json": b'{"caption": "a"}'}, ("é 猫",)),
        ({"txt": b"first", "cls": b"7", "seg.png": b"?", "jpeg": picture(1)}, ("first",)),
    ],
)
def test_a_record_is_the_files_of_one_name(files, captions, tmp_path):
    write_shard(tmp_path / "a.tar", [files, sample(2)])
    source = open_shards(tmp_path)
    kinds = ("jpg", "jpeg", "png", "PNG", "webp")
    wanted = next(data for suffix, data in files.items() if suffix in kinds)
    assert source[0].image == wanted and source[0].captions.all() == captions
    assert source.metadata(0).captions.all() == captions
    assert source[1].image == picture(2)


def test_a_pattern_takes_the_shards_that_match(directory):
    assert texts(open_shards(directory / "0000[02].tar")) == [
        (f"{v} 1",) for v in (1, 2, 3, 4, 9, 10, 11, 12)
    ]


def everything(file) -> bytes:
    """An archive with all that may stand between records."""
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        long = 95 if form == tarfile.USTAR_FORMAT else 99
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, size in (
                ("plain.txt", 3), ("empty.jpg", 0), ("d" * 60 + "/" + "n" * 80 + ".png", 513),
                ("ünï.webp", 512), ("x" * long + ".json", 1024),
            ):  # fmt: skip
                member = tarfile.TarInfo(name)
                member.size, member.mtime = size, 1.5 if form == tarfile.PAX_FORMAT else 1
                archive.addfile(member, io.BytesIO(bytes(size)))
            for name, kind in (("old.txt", tarfile.AREGTYPE), ("contiguous.txt", tarfile.CONTTYPE)):
                member = tarfile.TarInfo(name)
                member.type, member.size = kind, 600
                archive.addfile(member, io.BytesIO(bytes(600)))
            old_folder = tarfile.TarInfo("old/")
            old_folder.type = tarfile.AREGTYPE
            archive.addfile(old_folder)
            for name, kind in (("folder", tarfile.DIRTYPE), ("link.txt", tarfile.SYMTYPE)):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "plain.txt"
                archive.addfile(member)
        yield file.getvalue()
        file.seek(0)
        file.truncate()


@pytest.mark.parametrize("read_ahead", [1, 700, 10**6])
def test_members_are_those_that_tarfile_finds(read_ahead):
    for archive in everything(io.BytesIO()):
        window = Window(
            lambda start, size, archive=archive: archive[start : start + size], read_ahead
        )
        with tarfile.open(fileobj=io.BytesIO(archive)) as oracle:
            expected = [(m.name, m.offset_data, m.size) for m in oracle if m.isfile()]
        found = list(members(window, len(archive)))
        assert [tuple(member[:3]) for member in found if not member.problem] == expected
        assert [member.name for member in found if member.problem] == ["link.txt"]
        assert len(expected) == 7


@pytest.mark.parametrize("damage", [b"\xff" * 512, b"\0" * 511 + b"x", b"JFIF" * 128])
def test_members_before_the_damage_are_found(damage):
    archive = next(everything(io.BytesIO()))
    start = list(members(Window(lambda s, n: archive[s : s + n], 1), len(archive)))[1].start
    damaged = archive[:start] + damage + archive[start + len(damage) :]
    found = []
    with pytest.raises(DamagedTar):
        for member in members(Window(lambda s, n: damaged[s : s + n], 1), len(damaged)):
            found.append(member.name)
    assert found == ["plain.txt", "empty.jpg"]


@pytest.fixture
def reads(monkeypatch):
    """The names of the shards that were read through."""
    seen, opened = [], tar_index._opened
    monkeypatch.setattr(tar_index, "_opened", lambda path: seen.append(path.name) or opened(path))
    return seen


def test_a_second_opening_reads_no_shard(directory, reads):
    open_shards(directory)
    assert set(reads) == {"00000.tar", "00001.tar", "00002.tar"}
    reads.clear()
    assert texts(open_shards(directory)) == [(f"{v} 1",) for v in range(1, 13)]
    assert not reads


def test_only_shards_that_changed_are_indexed_again(directory, reads):
    open_shards(directory)
    reads.clear()
    write_shard(directory / "00001.tar", [sample(50), sample(51)])
    write_shard(directory / "00003.tar", [sample(60)])
    (directory / "00000.tar").unlink()
    expected = [(f"{v} 1",) for v in (50, 51, 9, 10, 11, 12, 60)]
    assert texts(open_shards(directory)) == expected
    assert set(reads) == {"00001.tar", "00003.tar"}


def test_a_shard_of_the_same_size_that_was_touched_is_indexed_again(directory, reads):
    open_shards(directory)
    reads.clear()
    state = (directory / "00001.tar").stat()
    os.utime(directory / "00001.tar", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    open_shards(directory)
    assert set(reads) == {"00001.tar"}


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: b"{}"])
def test_a_damaged_index_is_made_again(directory, damage):
    open_shards(directory)
    (index,) = (directory / ".imagen_jax").iterdir()
    whole = index.read_bytes()
    index.write_bytes(damage(whole))
    assert len(open_shards(directory)) == 12
    assert index.read_bytes() == whole


def test_the_index_may_lie_elsewhere(directory, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("index")
    open_shards(directory, data_dir=str(elsewhere))
    assert not (directory / ".imagen_jax").exists()
    assert [path.suffix for path in (elsewhere / ".imagen_jax").iterdir()] == [".members"]


def test_an_index_that_cannot_be_written_names_the_remedy(directory):
    (directory / ".imagen_jax").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot be written: .*data\.data_dir"):
        open_shards(directory)


def test_an_index_takes_under_100_bytes_a_record(tmp_path):
    """All of it, on disk and in memory, for shards of a size that is still small."""
    write_shard(tmp_path / "0.tar", [{"jpg": b"x", "json": b"{}", "txt": b"a"}] * 500)
    source = open_shards(tmp_path)
    (index,) = (tmp_path / ".imagen_jax").iterdir()
    assert index.stat().st_size < 30 * len(source)
    assert len(pickle.dumps(source)) < 2000  # A few names and no array of records.


def test_a_source_can_go_to_other_processes_and_threads(directory):
    source = pickle.loads(pickle.dumps(open_shards(directory)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(source.__getitem__, [5] * 100 + list(range(12))))
    assert {record.image for record in records[:100]} == {picture(6)}
    assert [record.image for record in records[100:]] == [picture(v) for v in range(1, 13)]


def test_a_shard_that_was_cut_short_gives_what_is_whole(directory):
    path = directory / "00001.tar"
    whole = path.read_bytes()
    third = whole.index(b"000000002.png")
    path.write_bytes(whole[: third + 600])
    with pytest.warns(UserWarning, match=r"2 of 12 .* 1 shard cut short or damaged \(as 00001.tar"):
        source = open_shards(directory, max_broken_share=0.5)
    assert texts(source) == [(f"{v} 1",) for v in (1, 2, 3, 4, 5, 6, 9, 10, 11, 12)]


def test_a_shard_that_is_cut_short_later_breaks_its_records_only(directory):
    source = open_shards(directory)
    path = directory / "00001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BrokenRecord, match="cut short"):
        source[4]
    assert source[3].image == picture(4) and source[8].image == picture(9)


def test_records_that_lack_a_file_are_counted(tmp_path):
    whole = [sample(v) for v in range(1, 9)]
    lacking = [{"png": picture(1)}, {"txt": b"a", "json": b"{}"}, {"cls": b"1"}]
    write_shard(tmp_path / "a.tar", [*whole[:4], *lacking, *whole[4:]])
    says = r"2 of 10 .*: 1 no caption \(as a.tar/000000004\), 1 no picture \(as a.tar/000000005\)"
    with pytest.raises(UsageError, match=rf"{says}; data.max_broken_share is 0.01"):
        open_shards(tmp_path)
    with pytest.warns(UserWarning, match=says):
        assert len(open_shards(tmp_path, max_broken_share=0.2)) == 8


def test_a_picture_that_is_too_large_is_not_read(directory, monkeypatch):
    source = open_shards(directory)
    monkeypatch.setattr(webdataset_source.annotations, "MAX_PICTURE_BYTES", 10)
    with pytest.raises(BrokenRecord, match=r"00000.tar/000000001.png: picture too large"):
        source[1]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"txt": b"\xff\xfe"}, "caption not UTF-8"),
        ({"txt": b"  \n"}, "no caption"),
        ({"txt": b"a" * (2**20 + 1)}, "caption too long"),
        ({"json": b"{"}, "JSON unreadable"),
        ({"json": b"[" * 10**5}, "JSON unreadable"),
        ({"json": b"[1]"}, "JSON unreadable"),
        ({"json": b'{"caption": 3}'}, "no caption"),
        ({"json": b'{"caption": "' + b"a" * 2**20 + b'"}'}, "JSON unreadable"),
    ],
)
def test_a_broken_caption_is_named(files, says, tmp_path):
    write_shard(tmp_path / "a.tar", [{"png": picture(1)} | files, sample(2)])
    source = open_shards(tmp_path)
    for read in (source.__getitem__, source.metadata):
        with pytest.raises(BrokenRecord, match=rf"a\.tar/000000000\.\w+: {says}"):
            read(0)
    assert source[1].image == picture(2)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"webdataset:.*nowhere'; there is no file .*nowhere"):
        open_shards(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"there is no file .*/\*\.tar"):
        open_shards(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(UsageError, match=r"a\.tar is compressed"):
        open_shards(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"holds no record that can be used: 1 shard cut short"):
        open_shards(tmp_path)


def test_shards_and_their_index_may_lie_in_a_bucket(directory, bucket, reads):
    for path in directory.glob("*.tar"):
        (bucket / "set" / path.name).write_bytes(path.read_bytes())
    for _ in range(2):
        source = open_shards("gs://bucket/run/set")
        assert texts(source) == [(f"{v} 1",) for v in range(1, 13)]
        assert source[7].image == picture(8)
    assert len(reads) == 3  # Indexed once.
    assert [path.suffix for path in (bucket / "set" / ".imagen_jax").iterdir()] == [".members"]
    assert texts(open_shards("gs://bucket/run/set/0000[12].tar")) == [
        (f"{v} 1",) for v in range(5, 13)
    ]
    (bucket / "set" / "00001.tar").write_bytes((directory / "00002.tar").read_bytes())
    assert texts(open_shards("gs://bucket/run/set"))[4:8] == [(f"{v} 1",) for v in range(9, 13)]


def test_numbers_are_numbers(tmp_path):
    values = {"a": 1, "b": 0.5, "c": "2", "d": None, "e": [1], "f": True, "g": 10**400}
    text = json.dumps(values)[:-1] + ', "h": NaN, "i": Infinity}'
    write_shard(tmp_path / "a.tar", [{"png": picture(1), "txt": b"a", "json": text.encode()}])
    assert open_shards(tmp_path).metadata(0).numbers == {"a": 1.0, "b": 0.5, "f": 1.0}
    assert np.isfinite(list(open_shards(tmp_path).metadata(0).numbers.values())).all()
