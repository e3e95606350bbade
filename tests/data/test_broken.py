"""Broken records in a run: left out, counted, named once, and too many of them an error."""

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


def numbers(found) -> list[int | None]:
    """Of the records in a run's rows; None where a row counts nothing."""
    return [
        int(number) if weight else None
        for batch in found
        for number, weight in zip(batch["token_ids"][:, 0], batch["weight"], strict=True)
    ]


@pytest.mark.filterwarnings("ignore:left out")
def test_every_good_record_counts_once_an_epoch_in_its_own_place(whole, faulty):
    """The rows of broken ones are blank and weigh nothing; all others are what they would be."""
    epoch = COUNT // BATCH
    expected, found = batches(whole, 2 * epoch), batches(faulty, 2 * epoch)
    meant, got = numbers(expected), numbers(found)
    assert got == [None if number in FAULTS else number for number in meant]
    for one in (got[:COUNT], got[COUNT:]):
        counted = sorted(number for number in one if number is not None)
        assert counted == sorted(set(range(COUNT)) - FAULTS.keys())
    for batch, other in zip(found, expected, strict=True):
        good = batch["weight"] > 0
        for name in ("image", "token_ids", "mask"):
            np.testing.assert_array_equal(batch[name][good], other[name][good])
        assert not batch["image"][~good].any() and not batch["token_ids"][~good].any()
        assert (batch["mask"][~good].sum(1) == 1).all()


@pytest.mark.filterwarnings("ignore:left out")
def test_pairs_crops_and_embeddings_have_blank_rows_too(faulty):
    data = DataConfig(source=f"webdataset:{faulty}", crop=4)
    config = tiny.super_resolution(data=data)
    embeddings = np.random.default_rng(0).normal(size=(COUNT, 3, 2)).astype(np.float32)

    def read(texts):
        chosen = [int(text.split()[0]) for text in texts]
        return {"text": embeddings[chosen], "mask": np.ones((len(texts), 3), bool)}

    found = make_dataset(open_source(data), config, read, batch_size=COUNT, seed=0,
                         broken=BrokenRecords(1.0))  # fmt: skip
    batch = next(iter(found))
    assert {name: array.shape[1:] for name, array in batch.items()} == {
        "image": (4, 4, 3), "low_res": (2, 2, 3), "weight": (), "text": (3, 2), "mask": (3,),
    }  # fmt: skip
    blank = batch["weight"] == 0
    assert blank.sum() == len(FAULTS)
    assert not any(batch[name][blank].any() for name in ("image", "low_res", "text"))
    assert batch["text"][~blank].all()


@pytest.fixture
def warned(monkeypatch):
    """What is warned of. `catch_warnings` may lose it: threads that read ahead, of this test or of
    one before it, change the same state of Python."""
    said = []
    monkeypatch.setattr(warnings, "warn", lambda message, *_, **__: said.append(str(message)))
    return said


def read_but(*unreadable):
    """`tokenize`, to which these captions say nothing."""

    def read(texts):
        found = tokenize(texts)
        for row, text in enumerate(texts):
            found["mask"][row, 1:] &= int(text.split()[0]) not in unreadable
        return found

    return read


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_caption_that_says_nothing_to_the_vocabulary_breaks_its_record(
    whole, num_workers, warned
):
    """It is known where captions are read only, which is not where the record was."""
    data = DataConfig(source=f"webdataset:{whole}", num_workers=num_workers)
    found, broken = [], BrokenRecords(1.0)
    for read in (tokenize, read_but(4, 9)):
        dataset = make_dataset(open_source(data), tiny.stage(data=data), read, batch_size=BATCH,
                               seed=0, broken=broken)  # fmt: skip
        found.append(list(itertools.islice(iter(dataset), 2 * COUNT // BATCH)))
    expected, got = numbers(found[0]), numbers(found[1])
    assert got == [None if number in (4, 9) else number for number in expected]
    assert broken.counts() == {"no caption": 2}
    said = [message for message in warned if "left out" in message]
    assert sorted(said)[0] == ("left out: 0.tar/000000004.png: no caption (none that can be read).")
    blank = [x for b in found[1] for x in b["image"][b["weight"] == 0]]
    assert len(blank) == len(said) * 2 == 4 and not np.any(blank)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_batch_may_have_no_good_record(tmp_path):
    write_shard(tmp_path / "0.tar", [sample(1) | {"png": b"no picture"}] * 3)
    (batch,) = batches(tmp_path, 1)
    assert not batch["weight"].any() and batch["token_ids"].shape == (BATCH, 4)


@pytest.mark.filterwarnings("ignore:left out")
def test_the_rows_that_count_are_the_same_for_all_processes_and_beginnings(faulty):
    expected = numbers(batches(faulty, 12))
    assert numbers(batches(faulty, 5, first_picture=7 * BATCH)) == expected[7 * BATCH :]
    rows = [1, 4]
    assert numbers(batches(faulty, 12, rows=rows)) == [
        number for place, number in enumerate(expected) if place % BATCH in rows
    ]


def test_each_reason_is_counted_and_each_record_named_once(faulty, warned):
    broken = BrokenRecords(1.0)
    batches(faulty, 1, broken)
    assert sum(broken.counts().values()) < 4  # Not what was read ahead.
    batches(faulty, 3 * COUNT // BATCH, broken)
    assert broken.counts() == REASONS and str(broken).startswith("4 broken records (1 ")
    said = sorted(message for message in warned if "left out" in message)
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
        assert batch.keys() == expected.keys() == {"image", "token_ids", "mask", "weight"}
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


def test_a_single_record_is_called_one():
    broken = BrokenRecords(0.0)
    says = r"1 of 8 rows met 1 broken record \(1 no caption\); "
    with pytest.warns(UserWarning), pytest.raises(UsageError, match=says):
        broken.take(8, [Broken("a", "no caption", "a: no caption.")])


def test_a_tally_counts_and_keeps_the_first_name():
    tally = Tally()
    tally.add("no caption", "b")
    tally.add("no caption", "a")
    tally.merge({"no picture": (3, "c")})
    assert str(tally) == "2 no caption (as b), 3 no picture (as c)" and tally.total() == 5
