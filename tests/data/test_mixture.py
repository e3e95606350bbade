"""Mixtures: proportions that hold everywhere, and epochs of each source that are exact."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import tiny
from shards import sample, tokenize, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data.order import choose, shares_of_the_rest
from imagen_jax.data.pipeline import make_dataset
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError
from imagen_jax.weights.stage_file import exported_config


@pytest.mark.parametrize("weights", [(1.0,), (0.7, 0.3), (1.0, 1.0, 1.0), (5.0, 0.1, 2.5, 0.4)])
def test_positions_are_shared_out_by_weight_without_a_gap(weights):
    """Against an oracle that counts; no part is ever more than the number of parts behind."""
    shares, counts = shares_of_the_rest(weights), [0] * len(weights)
    total = sum(map(Fraction, weights))
    for position in range(1000):
        part, place = choose(position, shares)
        assert place == counts[part]
        counts[part] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - (position + 1) * Fraction(weight) / total) < len(weights)


def test_positions_far_out_are_exact():
    shares = shares_of_the_rest((0.7, 0.3))
    far = 10**15
    places = [choose(far + step, shares) for step in range(10)]
    assert [place for part, place in places if part == 0] == list(
        range(7 * far // 10, 7 * far // 10 + 7)
    )
    assert [place for part, place in places if part == 1] == list(
        range(3 * far // 10, 3 * far // 10 + 3)
    )


@pytest.fixture
def data(tmp_path):
    """7 records from 1 on and 5 from 101 on, mixed 3 to 1."""
    for name, first, count in (("a", 1, 7), ("b", 101, 5)):
        (tmp_path / name).mkdir()
        values = range(first, first + count)
        write_shard(tmp_path / name / "0.tar", [sample(v) for v in values])
    parts = (f"0.75*webdataset:{tmp_path / 'a'}", f"0.25*webdataset:{tmp_path / 'b'}")
    return DataConfig(mixture=parts)


def batches(data, count, **part):
    config = tiny.stage(data=data)
    dataset = make_dataset(open_source(data), config, tokenize, batch_size=8, seed=0, **part)
    return list(itertools.islice(iter(dataset), count))


def numbers(found) -> list[list[int]]:
    return [[int(number) for number in batch["token_ids"][:, 0]] for batch in found]


def test_every_batch_has_the_proportions_and_every_source_its_epochs(data):
    found = numbers(batches(data, 14))
    for batch in found:
        assert sum(number > 100 for number in batch) == 2
    first = [n for batch in found for n in batch if n < 100]
    second = [n for batch in found for n in batch if n > 100]
    for start in range(0, len(first), 7):
        assert sorted(first[start : start + 7]) == list(range(1, 8))
    for start in range(0, len(second) - 4, 5):
        assert sorted(second[start : start + 5]) == list(range(101, 106))
    assert first[:7] != first[7:14]


def test_a_mixture_is_the_same_for_whoever_reads_it(data):
    whole = batches(data, 9)
    for part, rows, first in (
        (batches(data, 5, first_picture=32), range(8), 4),
        (batches(data, 9, rows=[0, 5]), [0, 5], 0),
    ):
        for batch, expected in zip(part, whole[first:], strict=True):
            for name, array in batch.items():
                np.testing.assert_array_equal(array, expected[name][list(rows)])


def test_the_records_of_a_mixture_can_be_listed(data):
    source = open_source(data)
    texts = [source.metadata(index).captions.all()[0] for index in range(len(source))]
    assert texts == [f"{v} 1" for v in (*range(1, 8), *range(101, 106))]
    assert [source[index].captions.all()[0] for index in range(12)] == texts


@pytest.mark.parametrize(
    "text", ["folder:a", "*folder:a", "0*folder:a", "-1*folder:a", "x*folder:a", "inf*a", "2*", ""]
)
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"data.mixture has .* such as '0.7\*folder:pictures'"):
        DataConfig(mixture=(text,))


def test_a_pattern_may_have_stars(tmp_path):
    (share,) = DataConfig(mixture=("2*webdataset:/a/*.tar",)).shares
    assert (share.weight, share.source) == (2.0, "webdataset:/a/*.tar")


def test_an_exported_config_names_no_directory():
    data = DataConfig(
        source="webdataset:/home/me/set/*.tar", data_dir="/home/me",
        mixture=("0.5*folder:/home/me/a", "2*coco_captions/2014", "1*arrayrecord:gs://mine/b"),
    ).without_places()  # fmt: skip
    assert "me" not in str(data).replace("num_workers", "")
    assert data.mixture == ("0.5*folder:a", "2*coco_captions/2014", "1*arrayrecord:b")


@pytest.mark.parametrize(
    ("source", "eval_source"),
    [
        ("webdataset:/d/train/*.tar", "webdataset:/d/val/*.tar"),
        ("folder:/d/train/images", "folder:/d/val/images"),
    ],
)
def test_a_run_whose_held_out_pictures_have_the_name_of_its_own_can_be_exported(
    source, eval_source
):
    data = {"source": source, "eval_source": eval_source}
    config = tiny.stage(data=data, training={"eval_every": 5})
    exported = exported_config(config, with_encoder=True)
    assert exported.data.eval_source == "" and "/d/" not in str(exported.data)
    assert exported.training.eval_every == 0
    mixed = tiny.replace(config, data={"mixture": ("0.5*captioned_emoji/core_64", f"0.5*{source}")})
    assert exported_config(mixed, with_encoder=True).training.eval_every == 0
    kept = tiny.replace(config, data={"eval_source": "folder:/d/other"})
    assert exported_config(kept, with_encoder=True).data.eval_source == "folder:other"
