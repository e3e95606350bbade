"""ArrayRecord files: what is read of them, and the verb that writes them."""

import os
import pickle

import msgpack
import pytest
import storage
import tiny
from scripts import call, refused, verbs
from shards import picture, sample, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data import pack
from imagen_jax.data.arrayrecord_source import write_file
from imagen_jax.data.records import BrokenRecord
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError


def open_records(place, **fields):
    return open_source(DataConfig(source=f"arrayrecord:{place}", **fields))


def write(path, *records):
    return write_file(path, (msgpack.packb(record) for record in records))


def test_documented_records_are_read(tmp_path):
    """As the documentation says that they are made, with msgpack alone."""
    first = {"image": picture(1), "captions": ["a", "b"], "similarity": 0.5, "url": "http://x"}
    second = {"image": picture(2), "caption": "c", "low_res": picture(3, (4, 4)), "side": 7}
    assert write(tmp_path / "0.arrayrecord", first) == 1
    write(tmp_path / "1.arrayrecord", second)
    source = pickle.loads(pickle.dumps(open_records(tmp_path)))
    assert len(source) == 2
    assert source[0].image == picture(1) and not source[0].pictures
    assert source[0].captions.all() == ("a", "b") == source.metadata(0).captions.all()
    assert source.metadata(0).numbers == {"similarity": 0.5}
    assert (source[1].image, source[1].pictures["low_res"]) == (picture(2), picture(3, (4, 4)))
    assert source[1].name.endswith("[1]")
    assert len(open_records(tmp_path / "1*")) == 1
    assert len(open_records(tmp_path, filters=("similarity>0.4",))) == 1


def test_a_file_whose_name_is_not_utf_8_is_named(tmp_path):
    write(tmp_path / "0.arrayrecord", {"image": picture(1), "caption": "c"})
    (tmp_path / "0.arrayrecord").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.arrayrecord"))
    with pytest.raises(UsageError, match=r"cannot be read: .*udcff"):
        open_records(tmp_path)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"", "record unreadable"),
        (b"\xc1", "record unreadable"),
        (msgpack.packb([1]), "record unreadable .it must be a map"),
        (msgpack.packb({"image": picture(1)}), "no caption"),
        (msgpack.packb({"image": picture(1), "captions": [3, " "]}), "no caption"),
        (msgpack.packb({"image": "text", "captions": ["a"]}), "no picture"),
        (msgpack.packb({"captions": ["a"]}), "no picture"),
        (msgpack.packb({"image": b"", "captions": "\udcff"}, unicode_errors="surrogateescape"),
         "caption not UTF-8"),
    ],
)  # fmt: skip
def test_a_broken_record_is_named(record, says, tmp_path):
    good = msgpack.packb({"image": picture(1), "captions": ["a"]})
    write_file(tmp_path / "0.arrayrecord", iter([good, record]))
    source = open_records(tmp_path)
    with pytest.raises(BrokenRecord, match=rf"\[1\]: {says}"):
        source[1]
    assert source[0].image == picture(1)


def test_a_damaged_file_is_named(tmp_path):
    write(tmp_path / "0.arrayrecord", *[{"image": picture(1), "captions": ["a"]}] * 5)
    whole = (tmp_path / "0.arrayrecord").read_bytes()
    (tmp_path / "0.arrayrecord").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"arrayrecord:.* cannot be read: "):
        open_records(tmp_path)
    with pytest.raises(UsageError, match=r"there is no file .*\*\.arrayrecord"):
        open_records(tmp_path / "nowhere" / "*.arrayrecord")


def test_bytes_that_were_changed_break_their_record(tmp_path):
    write(tmp_path / "0.arrayrecord", *[{"image": picture(v), "captions": ["a"]} for v in range(9)])
    data = bytearray((tmp_path / "0.arrayrecord").read_bytes())
    place = data.index(picture(4)[30:60])
    data[place : place + 20] = bytes(20)
    (tmp_path / "0.arrayrecord").write_bytes(data)
    source = open_records(tmp_path)
    with pytest.raises(BrokenRecord, match=r"\[4\]: record unreadable"):
        source[4]
    assert source[3].image == picture(3)


def test_files_may_lie_in_a_bucket(tmp_path, bucket, monkeypatch):
    """Listed through fsspec, and read by array_record's own client of Cloud Storage."""
    files = {}
    for number in range(2):
        values = range(10 * number, 10 * number + 10)
        path = tmp_path / f"{number}.arrayrecord"
        write(path, *[{"image": picture(v), "captions": [f"{v}"], "score": v} for v in values])
        (bucket / path.name).write_bytes(path.read_bytes())
        files[f"bucket/run/{path.name}"] = path.read_bytes()
    with storage.serving(files) as address:
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", address)
        source = open_records("gs://bucket/run", filters=("score>=3",))
        assert len(source) == 17
        for index in (0, 9, 16):
            assert source[index].image == picture(index + 3)
            assert source[index].captions.all() == (f"{index + 3}",)
    assert [path.suffix for path in (bucket / ".imagen_jax").iterdir()] == [".numbers"]


def test_a_source_is_packed_without_its_broken_records(tmp_path):
    (tmp_path / "shards").mkdir()
    samples = [sample(v, similarity=v / 10) for v in range(8)]
    samples[2]["png"] = b"no picture"
    samples[5]["txt"] = b"\xff"
    write_shard(tmp_path / "shards" / "0.tar", samples)
    result = call(
        verbs, "pack", tmp_path / "out", "--source", f"webdataset:{tmp_path / 'shards'}",
        "--filters", "similarity>0", "--max-broken-share", "0.5", "--shard-records", "2",
    )  # fmt: skip
    assert result.code == 0 and result.out.startswith(f"{tmp_path / 'out'}: 5 records")
    assert "1 picture undecodable" in result.out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"0000{number}.arrayrecord" for number in range(3)]
    source = open_records(tmp_path / "out")
    for index, value in enumerate((1, 3, 4, 6, 7)):
        assert source[index].image == picture(value)
        assert source.metadata(index).captions.all() == (f"{value} 1",)
        assert source.metadata(index).numbers == {"similarity": value / 10}


def test_what_is_of_training_is_refused_in_packing(tmp_path):
    arguments = ("pack", tmp_path / "out", "--source", f"folder:{tmp_path}")
    for flag, value in (("--crop", "8"), ("--flip", "0.5"), ("--embeddings", "x")):
        refused(call(verbs, *arguments, flag, value), f"{flag} is {value}; it is of training")


def test_half_a_data_set_is_not_left_where_writing_failed(tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards" / "0.tar", [sample(v, similarity=v / 10) for v in range(4)])
    write = pack.write_file

    def fail_later(path, records):
        if path.name.startswith("00001"):
            raise OSError(28, "No space left on device")
        return write(path, records)

    monkeypatch.setattr(pack, "write_file", fail_later)
    arguments = ("--source", f"webdataset:{tmp_path / 'shards'}", "--shard-records", "2")
    told = f"{tmp_path / 'out'} cannot be written: No space left on device"
    refused(call(verbs, "pack", tmp_path / "out", *arguments), told)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    monkeypatch.undo()
    assert call(verbs, "pack", tmp_path / "out", *arguments).code == 0
    assert len(open_records(tmp_path / "out")) == 4


def test_mistakes_of_packing_are_named(tmp_path):
    (tmp_path / "a").touch()
    refused(call(verbs, "pack", tmp_path), f"{tmp_path} is not empty")
    refused(call(verbs, "pack", tmp_path / "b", "--shard-records", "0"), "--shard-records is 0")
    refused(call(verbs, "pack", tmp_path / "b", "--source", "folder:nowhere"), "folder:nowhere")
    assert not (tmp_path / "b").exists()


def test_a_name_of_half_a_letter_breaks_its_record_alone(tmp_path):
    data = tiny.folder(tmp_path / "data")
    (tmp_path / "data" / "00.json").write_text('{"caption": "x", "\\ud800": 1}')
    flags = ("--source", data.source, "--max-broken-share", "0.5")
    result = call(verbs, "pack", tmp_path / "out", *flags)
    assert result.code == 0 and "1 text is not Unicode" in result.out, result
    assert len(open_records(tmp_path / "out")) == 11
