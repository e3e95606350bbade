"""Hashes, shards, the index's search, and records."""

import numpy as np
import pytest

from imagen_jax.errors import UsageError
from imagen_jax.text.cache_format import (
    BFLOAT16,
    INDEX,
    Index,
    Sizes,
    halves,
    hash_of,
    pack,
    shard_of,
    shard_starts,
    unpack,
    whole,
)


def write_index(directory, high, low, rows):
    for (name, dtype), column in zip(INDEX.items(), (high, low, rows), strict=True):
        (directory / name).write_bytes(np.array(column, dtype).tobytes())


def test_a_hash_is_that_of_the_text_and_of_nothing_else():
    """BLAKE2b with 16 bytes, from another implementation of it (`b2sum -l 128`)."""
    assert hash_of("").hex() == "cae66941d9efbd404e4d88758ea67670"
    assert len({hash_of(f"{number}") for number in range(1000)}) == 1000


def test_pairs_of_halves_have_the_order_of_the_hashes():
    hashes = sorted(hash_of(f"caption {number}") for number in range(100))
    pairs = list(zip(*(half.tolist() for half in halves(hashes)), strict=True))
    assert pairs == sorted(pairs)
    assert [whole(*pair) for pair in pairs] == hashes
    assert halves([])[0].shape == (0,)


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 1000])
def test_a_shard_begins_where_its_first_hash_is(shards):
    starts = [int(start) for start in shard_starts(shards)]
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert [shard_of(start, shards) for start in starts] == list(range(shards))
    before = [start - 1 for start in starts[1:]]
    assert [shard_of(last, shards) for last in before] == list(range(shards - 1))
    assert shard_of(2**64 - 1, shards) == shards - 1


def test_the_search_finds_what_is_there_and_nothing_else(tmp_path):
    """Also where several hashes share their first half."""
    high, low = [1, 5, 5, 5, 9, 2**64 - 1], [4, 1, 2, 9, 0, 3]
    write_index(tmp_path, high, low, range(6))
    index = Index(tmp_path, 6)
    asked = [(5, 9), (5, 1), (5, 3), (0, 0), (9, 0), (2**64 - 1, 3), (2**64 - 1, 4), (1, 4), (6, 1)]
    found = index.find(*np.array(asked, np.uint64).T)
    assert found.tolist() == [3, 1, -1, -1, 4, 5, -1, 0, -1]
    empty = Index.__new__(Index)
    empty.high = empty.low = empty.row = np.empty(0, np.uint64)
    assert empty.find(*np.array([(5, 1)], np.uint64).T).tolist() == [-1]


def test_a_file_of_another_number_of_captions_is_damaged(tmp_path):
    write_index(tmp_path, [1, 2], [1, 2], [0, 1])
    with pytest.raises(UsageError, match=r"high\.u64 is damaged: it has 16 bytes and needs 24"):
        Index(tmp_path, 3)
    (tmp_path / "row.u32").unlink()
    with pytest.raises(UsageError, match=r"row\.u32 cannot be read"):
        Index(tmp_path, 2)


def test_a_record_is_a_hash_the_number_of_tokens_and_their_rows():
    rows = np.array([[1.0, -2.0], [0.5, 3.0]]).astype(BFLOAT16)
    key = bytes(range(16))
    record = pack(key, 1, rows)
    assert record.hex() == key.hex() + "01000000" + "803f" + "00c0" + "003f" + "4040"
    tokens, read = unpack(record, key, 2)
    assert tokens == 1 and read.tolist() == rows.tolist()
    for damaged in (b"", record[:3], record[:-1], record[:-2], record[:20], pack(key, 3, rows)):
        with pytest.raises(ValueError):
            unpack(damaged, key, 2)
    with pytest.raises(ValueError, match="of another caption"):
        unpack(record, bytes(16), 2)


def test_sizes_of_captions_that_are_cut():
    """One caption of 1 token, two of 3, one of 5."""
    sizes = Sizes(captions=7, broken=0, shards=(3, 1), lengths=(0, 1, 0, 2, 0, 1))
    assert (sizes.distinct, sizes.longest) == (4, 5)
    assert [sizes.tokens(length) for length in (2, 3, 5, 9)] == [7, 10, 12, 12]
    assert [sizes.longer(length) for length in (2, 3, 5, 9)] == [3, 1, 0, 0]
