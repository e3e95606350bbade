"""Broken records in a run: replaced, counted, named once, and too many of them an error."""

import itertools
import warnings

import numpy as np
import pytest
import tiny
from shards import picture, sample, tokenize, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data.broken import Broken, BrokenRecords, Tally
from imagen_jax.data.pipeline import make_dataset
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError

COUNT, BATCH = 30, 5
FAULTS = {
    3: {"png": b"no picture"},
    8: {"png": picture(8)[:50]},
    17: {"txt": b"\xff\xff"},
    25: {"txt": b" "},
}
REASONS = {
    "picture undecodable": 1, "picture truncated": 1, "caption not UTF-8": 1, "no caption": 1,
}  # fmt: skip


@pytest.fixture
def whole(tmp_path):
    (tmp_path / "whole").mkdir()
    write_shard(tmp_path / "whole" / "0.tar", [sample(v) for v in range(COUNT)])
    return tmp_path / "whole"


@pytest.fixture
def faulty(tmp_path):
    """The same, where four of 30 records are broken in four ways."""
    (tmp_path / "faulty").mkdir()
    samples = [sample(v) | FAULTS.get(v, {}) for v in range(COUNT)]
    write_shard(tmp_path / "faulty" / "0.tar", samples)
    return tmp_path / "faulty"


def batches(directory, count, broken=None, **part):
    data = DataConfig(source=f"webdataset:{directory}")
    config = tiny.stage(data=data)
    source = open_source(data)
    broken = broken or BrokenRecords(1.0)
    data = make_dataset(source, config, tokenize, batch_size=BATCH, seed=0, broken=broken, **part)
    return list(itertools.islice(iter(data), count))


def numbers(found) -> list[int]:
    return [int(number) for batch in found for number in batch["token_ids"][:, 0]]


@pytest.mark.filterwarnings("ignore:left out")
def test_only_the_rows_of_broken_records_change(whole, faulty):
    epoch = COUNT // BATCH
    expected = batches(whole, 2 * epoch)
    found = batches(faulty, 2 * epoch)
    meant, got = numbers(expected), numbers(found)
    assert sorted(meant[:COUNT]) == list(range(COUNT))  # An epoch.
    for place, (number, other) in enumerate(zip(meant, got, strict=True)):
        assert (number in FAULTS) == (number != other)
        assert other not in FAULTS
        batch, row = divmod(place, BATCH)
        if number not in FAULTS:
            image = expected[batch]["image"][row]
            np.testing.assert_array_equal(found[batch]["image"][row], image)
    good = set(range(COUNT)) - FAULTS.keys()
    own = [n for n, m in zip(got, meant, strict=True) if n == m]
    for epoch in (own[: len(good)], own[len(good) :]):
        assert sorted(epoch) == sorted(good)  # Each good one in its own place, once.


@pytest.mark.filterwarnings("ignore:left out")
def test_what_takes_the_place_of_a_broken_record_is_always_the_same(faulty):
    expected = numbers(batches(faulty, 12))
    assert numbers(batches(faulty, 5, first_picture=7 * BATCH)) == expected[7 * BATCH :]
    rows = [1, 4]
    assert numbers(batches(faulty, 12, rows=rows)) == [
        number for place, number in enumerate(expected) if place % BATCH in rows
    ]


def test_each_reason_is_counted_and_each_record_named_once(faulty):
    broken = BrokenRecords(1.0)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        batches(faulty, 1, broken)
        assert sum(broken.counts().values()) < 4  # Not what was read ahead.
        batches(faulty, 3 * COUNT // BATCH, broken)
    assert broken.counts() == REASONS and str(broken).startswith("4 broken records (1 ")
    said = sorted(str(w.message) for w in shown if "left out" in str(w.message))
    assert len(said) == 4
    assert said[0].startswith("left out: 0.tar/000000003.png: picture undecodable (of no format")
    assert said[2].startswith("left out: 0.tar/000000017.png: caption not UTF-8 ('utf-8' codec")


@pytest.mark.filterwarnings("ignore:left out")
def test_worker_processes_change_nothing(whole, faulty):
    """Of a mixture with broken records and a filter; what they met is counted here."""
    found, counts = [], []
    for workers in (0, 2):
        mixture = (f"2*webdataset:{whole}", f"1*webdataset:{faulty}")
        data = DataConfig(mixture=mixture, filters=("caption_length>=3",), num_workers=workers,
                          max_broken_share=1.0)  # fmt: skip
        config, broken = tiny.stage(data=data), BrokenRecords(1.0)
        dataset = make_dataset(open_source(data), config, tokenize, batch_size=BATCH, seed=0,
                               first_picture=BATCH, broken=broken)  # fmt: skip
        found.append(list(itertools.islice(iter(dataset), 20)))
        counts.append(broken.counts())
    for batch, expected in zip(*found, strict=True):
        assert batch.keys() == expected.keys() == {"image", "token_ids", "mask"}
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[name])
    assert counts[0] == counts[1] == {"picture undecodable": 1, "picture truncated": 1}


def test_a_share_that_is_too_large_stops_the_run():
    broken = BrokenRecords(0.01)
    one = lambda n: Broken(f"{n}.png", "picture undecodable", f"{n}.png: picture undecodable.")  # noqa: E731
    with pytest.warns(UserWarning, match="left out: 9.png"):
        broken.take(100, map(one, range(10)))  # 1% of the first thousand.
    says = r"11 of 101 rows met 11 broken records \(11 picture undecodable\); .*_share is 0.01"
    with pytest.warns(UserWarning), pytest.raises(UsageError, match=says):
        broken.take(1, [one(10)])
    later = BrokenRecords(0.01)
    later.take(10_000, [])
    with pytest.warns(UserWarning):
        later.take(100, map(one, range(100)))
    with pytest.warns(UserWarning), pytest.raises(UsageError, match="102 of 10101"):
        later.take(1, [one(100), one(101)])


def test_no_share_allows_no_record(faulty):
    with (
        pytest.warns(UserWarning),
        pytest.raises(UsageError, match=r"data.max_broken_share is 0\."),
    ):
        batches(faulty, 12, BrokenRecords(0.0))


def test_a_source_without_a_good_record_stops_at_once(tmp_path):
    write_shard(tmp_path / "0.tar", [sample(1) | {"png": b"no picture"}] * 3)
    with pytest.raises(UsageError, match=r"100 records in a row are broken; the last: 0\.tar/"):
        batches(tmp_path, 1)


def test_a_tally_counts_and_keeps_the_first_name():
    tally = Tally()
    tally.add("no caption", "b")
    tally.add("no caption", "a")
    tally.merge({"no picture": (3, "c")})
    assert str(tally) == "2 no caption (as b), 3 no picture (as c)" and tally.total() == 5
