"""Filters: what fulfils the conditions is read, decided once and before training."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import tiny
from shards import picture, sample, tokenize, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data import filters, places
from imagen_jax.data.pipeline import make_dataset
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError

SIZES = [(8, 8), (16, 8), (12, 24), (40, 10), (9, 9), (64, 64)]


@pytest.fixture
def directory(tmp_path):
    """Record v, 1 to 12: of various sizes, with a similarity of v / 10 but for 5 and 6."""
    samples = []
    for v in range(1, 13):
        described = {} if v in (5, 6) else {"similarity": v / 10, "punsafe": 1 - v / 12}
        samples.append(sample(v, SIZES[v % len(SIZES)], **described))
    samples[3]["txt"] = b"4 1 "  # Its caption is as long as others.
    write_shard(tmp_path / "0.tar", samples[:7])
    write_shard(tmp_path / "1.tar", samples[7:])
    return tmp_path


def config(directory, *conditions, **fields):
    return DataConfig(source=f"webdataset:{directory}", filters=conditions, **fields)


def kept(source) -> set[int]:
    texts = [source.metadata(index).captions.all()[0] for index in range(len(source))]
    assert [source[index].captions.all()[0] for index in range(len(source))] == texts
    numbers = [int(text.split()[0]) for text in texts]
    assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)
    return set(numbers)


def size(v):
    return SIZES[v % len(SIZES)]


@pytest.mark.parametrize(
    ("conditions", "fulfils"),
    [
        (["side>=10"], lambda v: min(size(v)) >= 10),
        (["aspect<=2"], lambda v: max(size(v)) <= 2 * min(size(v))),
        (["caption_length>3"], lambda v: v >= 10),
        (["similarity>=0.3"], lambda v: v >= 3 and v not in (5, 6)),
        (["similarity!=0.3"], lambda v: v not in (3, 5, 6)),
        (["similarity == 0.7"], lambda v: v == 7),
        (["similarity>=0.3", "punsafe<0.5", "side<60"],
         lambda v: v > 6 and min(size(v)) < 60),
        ([], lambda v: True),
    ],
)  # fmt: skip
def test_what_fulfils_all_conditions_is_left(conditions, fulfils, directory):
    expected = {v for v in range(1, 13) if fulfils(v)}
    assert kept(open_source(config(directory, *conditions))) == expected


def test_an_epoch_is_what_is_left_each_once(directory):
    data = config(directory, "similarity>=0.2")
    source, stage = open_source(data), tiny.stage(data=data)
    dataset = make_dataset(source, stage, tokenize, batch_size=3, seed=0)
    found = list(itertools.islice(iter(dataset), 6))
    seen = [int(number) for batch in found for number in batch["token_ids"][:, 0]]
    assert len(source) == 9
    assert sorted(seen[:9]) == sorted(seen[9:]) == [2, 3, 4, 7, 8, 9, 10, 11, 12]


@pytest.fixture
def measured(monkeypatch):
    """Indices of the records that were measured."""
    seen = []
    measure = filters._measure
    monkeypatch.setattr(filters, "_measure", lambda *args: seen.append(args[1]) or measure(*args))
    return seen


def test_numbers_are_worked_out_once(directory, measured):
    for _ in range(2):
        for bound in (0.3, 0.8):
            open_source(config(directory, f"similarity>={bound}"))
    assert sorted(measured) == list(range(12))
    measured.clear()
    open_source(config(directory, "similarity>=0.3", "side>=10"))
    open_source(config(directory, "side>=10"))
    open_source(config(directory, "similarity>=0.9"))
    assert sorted(measured) == list(range(12))


def test_numbers_are_worked_out_again_when_the_data_changed(directory):
    open_source(config(directory, "similarity>=0.3"))
    write_shard(directory / "1.tar", [sample(20, similarity=0.5), sample(21, similarity=0.1)])
    assert kept(open_source(config(directory, "similarity>=0.3"))) == {3, 4, 7, 20}


def test_an_index_in_the_place_of_another_is_made_again(directory):
    """Each is whole, and none is what belongs there."""
    wanted = kept(open_source(config(directory, "similarity>=0.3")))
    paths = sorted((directory / ".imagen_jax").iterdir())
    assert {path.suffix for path in paths} == {".members", ".numbers"}
    whole = [path.read_bytes() for path in paths]
    for path, data in zip(paths, reversed(whole), strict=True):
        path.write_bytes(data)
    assert kept(open_source(config(directory, "similarity>=0.3"))) == wanted
    assert [path.read_bytes() for path in paths] == whole


def test_numbers_take_8_bytes_each(directory):
    open_source(config(directory, "similarity>=0.3", "side>=1"))
    (path,) = (directory / ".imagen_jax").glob("*.numbers")
    data = path.read_bytes()
    assert len(data) - 8 - int.from_bytes(data[:8], "little") == 2 * 8 * 12


def test_a_number_that_no_record_has_is_an_error(directory):
    with pytest.raises(UsageError, match=r"data.filters has 'similarty>=0.3'; no record has"):
        open_source(config(directory, "similarty>=0.3"))
    with pytest.raises(UsageError, match=r"has no record that fulfils data.filters similarity>=9"):
        open_source(config(directory, "similarity>=9"))


def test_a_source_of_a_mixture_may_lack_a_number(directory, tmp_path):
    data = tiny.folder(tmp_path / "folder")
    mixture = (f"1*webdataset:{directory}", f"1*{data.source}")
    fields = DataConfig(mixture=mixture, filters=("similarity>=0.3",))
    with pytest.warns(UserWarning, match=r"no record of folder:.* has the number of similarity"):
        source = open_source(fields)
    assert [len(part) for part in source.parts] == [8, 12]


def test_broken_records_are_left_out_of_what_is_filtered(directory):
    samples = [sample(v, similarity=0.5) for v in range(1, 9)]
    samples[2]["png"] = b"no picture"
    samples[5]["txt"] = b"\xff"
    for path in directory.glob("*.tar"):
        path.unlink()
    write_shard(directory / "0.tar", samples)
    for _ in range(2):  # The second time from what was kept.
        with pytest.warns(UserWarning, match="1 picture undecodable .*, 1 caption not UTF-8"):
            source = open_source(config(directory, "side>=8", max_broken_share=0.5))
        assert len(source) == 6
    with pytest.raises(UsageError, match=r"2 of 8 records .*max_broken_share is 0.01"):
        open_source(config(directory, "side>=8"))


def test_folders_and_buckets_have_filters_too(tmp_path, bucket):
    for v in range(1, 5):
        (bucket / f"{v}.png").write_bytes(picture(v, (8 * v, 9 * v)))
        (bucket / f"{v}.json").write_text(json.dumps({"caption": f"{v} 1", "score": v}))
    for _ in range(2):
        fields = DataConfig(source="folder:gs://bucket/run", filters=("side>8", "score<4"))
        assert kept(open_source(fields)) == {2, 3}


@pytest.mark.parametrize(
    "text", ["side", "side>", ">=3", "side=>3", "side>=x", "side>=nan", "a b>=3", "1<side<3", ""]
)
def test_a_condition_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="data.filters has .* such as 'side>=256'"):
        DataConfig(filters=(text,))


def test_a_missing_number_fulfils_nothing(directory):
    source = open_source(config(directory))
    values = filters.numbers(source, ["similarity", "aspect"])
    assert np.isnan(values["similarity"]).nonzero()[0].tolist() == [4, 5]
    assert math.isclose(values["aspect"][0], 2.0)


def test_a_set_that_could_not_be_read_once_is_read_again(tmp_path, monkeypatch):
    """A disk that comes back; the files' sizes and times say nothing about it."""
    data = tiny.folder(tmp_path / "data")
    data = dataclasses.replace(data, filters=("side>=1",))
    whole, lost = places.read_range, []

    def read_range(path, start, size):
        if path.suffix == ".png" and path.name == min(p.name for p in path.parent.glob("*.png")):
            lost.append(path)
            raise OSError(5, "Input/output error")
        return whole(path, start, size)

    monkeypatch.setattr(places, "read_range", read_range)
    with pytest.raises(UsageError, match="1 file unreadable"):
        open_source(data)
    assert lost
    monkeypatch.setattr(places, "read_range", whole)
    assert len(open_source(data)) == 12
