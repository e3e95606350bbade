"""Pictures of several sizes: one size a batch, the nearest for each picture, none stretched."""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from shards import tokenize

from imagen_jax.config import DataConfig
from imagen_jax.data import filters
from imagen_jax.data.order import nearest
from imagen_jax.data.pipeline import make_dataset
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError

SIZES = ((16, 16), (8, 32), (24, 12))
SHAPES = [(20, 20), (10, 40), (9, 27), (40, 20), (30, 31), (16, 16), (12, 48)]
"""Height and width of picture 1, 2, ..."""
BUCKETS = [0, 1, 1, 2, 0, 0, 1]
BATCH = 4


def write(directory, shapes, first=1):
    """Picture i is of the grey i, with the caption "i 1"."""
    directory.mkdir()
    for number, shape in enumerate(shapes, first):
        pixels = np.full((*shape, 3), number, np.uint8)
        Image.fromarray(pixels).save(directory / f"{number:02}.png")
        (directory / f"{number:02}.txt").write_text(f"{number} 1")
    return f"folder:{directory}"


@pytest.fixture
def data(tmp_path):
    return DataConfig(source=write(tmp_path / "data", SHAPES), sizes=SIZES)


def batches(data, count, **part):
    config = tiny.stage(data=data)
    part = {"batch_size": BATCH, "seed": 0, **part}
    dataset = make_dataset(open_source(data), config, tokenize, **part)
    return list(itertools.islice(iter(dataset), count))


def numbers(batch) -> list[int]:
    return batch["token_ids"][:, 0].tolist()


def assert_equal(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_the_nearest_size_is_that_of_the_smallest_factor():
    ratios = np.exp(np.random.default_rng(0).normal(size=500))
    for sizes in (SIZES, SIZES[::-1], ((16, 16),), ((8, 8), (8, 16), (8, 24), (32, 8))):
        ours = np.array([height / width for height, width in sizes])
        factors = np.abs(np.log(ratios[:, None] / ours))
        np.testing.assert_array_equal(nearest(sizes, ratios), factors.argmin(1))


def test_a_batch_has_one_size_and_every_picture_its_own(data):
    for batch in batches(data, 14):
        size = batch["image"].shape[1:3]
        assert size in SIZES and batch["image"].shape == (BATCH, *size, 3)
        assert {SIZES[BUCKETS[number - 1]] for number in numbers(batch)} == {size}
        # Nothing but the picture itself: no border was added.
        assert (batch["image"] == np.array(numbers(batch))[:, None, None, None]).all()
        assert batch["weight"].tolist() == [1.0] * BATCH


def test_sizes_come_in_the_proportion_of_their_pictures_and_each_has_its_epochs(data):
    found = batches(data, 7 * 3)
    for bucket, size in enumerate(SIZES):
        members = [number for number, of in enumerate(BUCKETS, 1) if of == bucket]
        own = [batch for batch in found if batch["image"].shape[1:3] == size]
        assert len(own) == 3 * len(members)  # Of 7 batches as many as of 7 pictures.
        seen = [number for batch in own for number in numbers(batch)]
        for start in range(0, len(seen), len(members)):
            assert sorted(seen[start : start + len(members)]) == members


def test_a_mixture_has_its_proportions_within_the_sizes(tmp_path):
    """A half of what is read is of each part: 3/4 and 1/4 of it are square."""
    parts = [
        write(tmp_path / "a", [(16, 16)] * 3 + [(8, 32)]),
        write(tmp_path / "b", [(16, 16)] + [(8, 32)] * 3, first=101),
    ]
    data = DataConfig(mixture=tuple(f"0.5*{part}" for part in parts), sizes=SIZES[:2])
    found = batches(data, 16)
    assert [batch["image"].shape[1:3] for batch in found].count((16, 16)) == 8
    for size, share in zip(SIZES[:2], (Fraction(3, 4), Fraction(1, 4)), strict=True):
        own = [numbers(b) for b in found if b["image"].shape[1:3] == size]
        assert [sum(n < 100 for n in of) for of in own] == [BATCH * share] * 8


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_may_begin_at_any_batch(data, num_workers):
    expected = batches(data, 13)[9:]
    data = tiny.replace(data, num_workers=num_workers)
    assert_equal(batches(data, 4, first_picture=9 * BATCH), expected)


def test_with_another_batch_size_reading_goes_on_at_the_next_whole_batch(data):
    expected = batches(data, 9, batch_size=6)[7:]
    assert_equal(batches(data, 2, batch_size=6, first_picture=9 * BATCH + 1), expected)


@pytest.mark.parametrize("rows", [[0, 1], [3, 1]])
def test_all_processes_read_rows_of_the_same_batches(data, rows):
    expected = [{name: x[rows] for name, x in batch.items()} for batch in batches(data, 8)]
    assert_equal(batches(data, 8, rows=rows), expected)


def test_super_resolution_gets_the_same_part_in_both_sizes(data):
    """Of pictures that grow brighter to the right and redder downwards."""
    for path in Path(data.source.removeprefix("folder:")).glob("*.png"):
        width, height = Image.open(path).size
        right = np.broadcast_to(np.linspace(0, 255, width)[None], (height, width))
        down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
        Image.fromarray(np.stack([down, right, right], -1).astype(np.uint8)).save(path)
    config = tiny.super_resolution(data=data)
    dataset = make_dataset(open_source(data), config, tokenize, batch_size=BATCH, seed=0)
    for batch in itertools.islice(iter(dataset), 7):
        height, width = batch["image"].shape[1:3]
        assert batch["low_res"].shape == (BATCH, height // 2, width // 2, 3)
        halved = batch["image"].reshape(BATCH, height // 2, 2, width // 2, 2, 3).mean((2, 4))
        # A pixel more or less to one side would be a difference of 16 and more.
        assert np.abs(halved - batch["low_res"])[:, 1:-1, 1:-1].max() < 6


def test_a_picture_lies_as_its_exif_data_say(tmp_path):
    data = DataConfig(source=write(tmp_path / "data", [(32, 8), (16, 16)]), sizes=SIZES[:2])
    exif = Image.Exif()
    exif[0x0112] = 6  # A quarter of a turn.
    path = tmp_path / "data" / "01.png"
    Image.open(path).save(path, exif=exif)
    sizes = {n: b["image"].shape[1:3] for b in batches(data, 4) for n in numbers(b)}
    assert sizes == {1: (8, 32), 2: (16, 16)}


def test_a_broken_picture_is_blank_in_the_size_of_its_batch(data, tmp_path):
    """Its header can be read, and nothing behind it."""
    path = tmp_path / "data" / "02.png"
    path.write_bytes(path.read_bytes()[:50])
    data = tiny.replace(data, max_broken_share=1.0)
    weights = {n: w for b in batches(data, 7) for n, w in zip(numbers(b), b["weight"], strict=True)}
    assert weights == {**dict.fromkeys((1, 3, 4, 5, 6, 7), 1.0), 0: 0.0}


def test_what_has_no_size_is_left_out_and_counted(data, tmp_path):
    (tmp_path / "data" / "05.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="1 of 7 records of .* cannot be used"):
        open_source(data)
    with pytest.warns(UserWarning, match="1 of 7 records"):
        source = open_source(tiny.replace(data, max_broken_share=0.5))
    assert len(source) == 6
    for path in (tmp_path / "data").glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="has no record of any size"):
        open_source(tiny.replace(data, max_broken_share=1.0))


def test_filters_hold_beside_sizes(data):
    seen = {n for b in batches(tiny.replace(data, filters=("aspect<=2",)), 9) for n in numbers(b)}
    assert seen == {1, 4, 5, 6}


def test_the_sizes_of_pictures_are_read_once(data, monkeypatch):
    before = batches(data, 5)
    monkeypatch.setattr(filters, "_measure", lambda *_: pytest.fail("They are read again."))
    assert_equal(batches(data, 5), before)
    # Other sizes need no other numbers.
    assert len(open_source(tiny.replace(data, sizes=((16, 16), (16, 32))))) == 7
