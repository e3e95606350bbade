"""Batches: contents, order, sharding, exact resume, and broken pictures."""

import dataclasses
import io
import itertools
import threading
import time
from unittest import mock

import numpy as np
import pytest
import tiny
from PIL import Image
from shards import tokenize

from imagen_jax.config import DataConfig, StageConfig, UNetConfig
from imagen_jax.data.pipeline import LoadExample, make_dataset
from imagen_jax.data.records import ListedCaptions, Record, Source
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError

COUNT = 10
LENGTH = 4


@pytest.fixture
def folder(tmp_path):
    """Picture i is a gradient times i+1; its captions are "i+1 1" ... "i+1 9"."""
    rows, columns = np.mgrid[:16, :16]
    for number in range(1, COUNT + 1):
        pixels = np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
        lines = [f"{number} {wording}" for wording in range(1, 10)]
        (tmp_path / f"{number:02}.txt").write_text("\n".join(lines))
    return tmp_path


def stage(folder, *, low_resolution=None, crop=None, num_workers=0) -> StageConfig:
    return StageConfig(
        name="tiny",
        resolution=16,
        low_resolution=low_resolution,
        unet=UNetConfig(channel_mult=(1,), num_res_blocks=(1,)),
        data=DataConfig(source=f"folder:{folder}", crop=crop, num_workers=num_workers),
    )


def dataset(config, read=tokenize, *, batch_size=5, seed=0, **part):
    source = open_source(config.data, config.low_resolution)
    return make_dataset(source, config, read, batch_size=batch_size, seed=seed, **part)


def batches(config, count, **settings):
    return list(itertools.islice(iter(dataset(config, **settings)), count))


def numbers(batch) -> list[int]:
    return batch["token_ids"][:, 0].tolist()


def assert_equal(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_base_batch_has_the_stated_shapes_and_matching_captions(folder):
    (batch,) = batches(stage(folder), 1)
    assert set(batch) == {"image", "token_ids", "mask", "weight"}
    assert batch["weight"].tolist() == [1] * 5 and batch["weight"].dtype == np.float32
    assert batch["image"].shape == (5, 16, 16, 3) and batch["image"].dtype == np.uint8
    assert batch["token_ids"].shape == (5, LENGTH) and batch["token_ids"].dtype == np.int32
    assert batch["mask"].shape == (5, LENGTH) and batch["mask"].dtype == bool
    assert batch["image"][:, 0, 0, 2].tolist() == numbers(batch)


def test_every_epoch_shows_every_picture_once_in_another_order(folder):
    seen = [number for batch in batches(stage(folder), 6) for number in numbers(batch)]
    epochs = [seen[start : start + COUNT] for start in (0, COUNT, 2 * COUNT)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(1, COUNT + 1))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_captions_change_from_epoch_to_epoch(folder):
    drawn = [set() for _ in range(COUNT + 1)]
    for batch in batches(stage(folder), 20):
        for number, wording in batch["token_ids"][:, :2]:
            drawn[number].add(int(wording))
    assert all(len(wordings) >= 3 for wordings in drawn[1:])  # Of 9, drawn 10 times.


def test_seed_decides_everything(folder):
    config = stage(folder, low_resolution=4, crop=8)
    assert_equal(batches(config, 4), batches(config, 4))
    assert [numbers(b) for b in batches(config, 4)] != [
        numbers(b) for b in batches(config, 4, seed=1)
    ]


@pytest.mark.parametrize("rows", [[0, 1], [2, 3, 4, 5], [1, 4]])
def test_processes_read_their_rows_of_the_very_batches_of_one_process(folder, rows):
    """Also rows apart from each other, as a TPU's order of devices may have them."""
    config = stage(folder, crop=8)
    whole = batches(config, 6, batch_size=6)
    expected = [{name: x[rows] for name, x in batch.items()} for batch in whole]
    assert_equal(batches(config, 6, batch_size=6, rows=rows), expected)


def test_super_resolution_crops_are_aligned(folder):
    for batch in batches(stage(folder, low_resolution=8, crop=8), 4):
        assert batch["image"].shape == (5, 8, 8, 3) and batch["low_res"].shape == (5, 4, 4, 3)
        assert batch["image"][:, 0, 0, 2].tolist() == numbers(batch)
        # The gradient rises by 1 a pixel: a low-resolution pixel is the mean of its 2x2.
        means = batch["image"].reshape(5, 4, 2, 4, 2, 3).mean(axis=(2, 4))
        assert np.abs(means - batch["low_res"])[..., :2].max() <= 1.0


def test_super_resolution_without_crop_gives_whole_pictures(folder):
    (batch,) = batches(stage(folder, low_resolution=4), 1)
    assert batch["image"].shape == (5, 16, 16, 3) and batch["low_res"].shape == (5, 4, 4, 3)
    assert batch["image"][0, :, 0, 0].tolist() == list(range(16))


def test_faults_change_the_low_resolution_pictures_alone(folder):
    config = stage(folder, low_resolution=8)
    data = dataclasses.replace(config.data, low_res_blur=1.0, low_res_blotches=20.0)
    worn = dataclasses.replace(config, data=data)
    for plain, faulty in zip(batches(config, 2), batches(worn, 2), strict=True):
        clean, changed = plain.pop("low_res"), faulty.pop("low_res")
        assert 0 < np.abs(clean.astype(int) - changed).mean() < 60
        for name, array in plain.items():
            np.testing.assert_array_equal(array, faulty[name])


@pytest.mark.parametrize(("side", "brighter"), [(8, 100), (4, 0), (16, 0)])
def test_a_records_own_low_resolution_picture_is_taken_at_the_stages_size(side, brighter):
    """Not the large one made small: here it is brighter by 100, on the same place."""
    columns = lambda side, scale, add: np.broadcast_to(  # noqa: E731
        (scale * np.arange(side) + add).astype(np.uint8)[None, :, None], (side, side, 3)
    )
    record = Record(
        name="a", image=encoded(columns(16, 1, 0)), captions=ListedCaptions(("1 1",)),
        pictures={"low_res": encoded(columns(side, 16 // side, 100))},
    )  # fmt: skip
    source = mock.Mock(__class__=Source, __len__=lambda _: 1, __getitem__=lambda _, index: record)
    config = tiny.super_resolution(data={"crop": 8})
    for seed in range(4):
        example = LoadExample(source, config)(0, np.random.default_rng(seed))
        first = int(example["image"][0, 0, 0])
        np.testing.assert_array_equal(example["image"], columns(8, 1, first))
        expected = columns(4, 2, first + brighter).astype(int)
        assert np.abs(example["low_res"] - expected).max() <= (0 if brighter else 1)


def encoded(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_may_begin_at_any_batch(folder, num_workers):
    """So a run goes on from its step, here in the third epoch."""
    config = stage(folder, crop=8)
    expected = batches(config, 12, batch_size=3)[7:]
    config = stage(folder, crop=8, num_workers=num_workers)
    assert_equal(batches(config, 5, batch_size=3, first_picture=21), expected)


def test_tokenizer_runs_in_the_thread_of_the_caller(folder):
    threads = set()

    def note_thread(texts):
        threads.add(threading.get_ident())
        return tokenize(texts)

    list(itertools.islice(iter(dataset(stage(folder), note_thread)), 8))
    assert threads == {threading.get_ident()}


def test_crop_larger_than_the_picture_is_named(folder):
    with pytest.raises(UsageError, match=r"data\.crop is 32"):
        batches(stage(folder, crop=32), 1)


def test_the_next_batches_are_made_while_the_first_is_used(folder):
    config, read = stage(folder), []
    source = open_source(config.data)

    class Recording(type(source)):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    source.__class__ = Recording
    made = iter(make_dataset(source, config, tokenize, batch_size=5, seed=0))
    next(made)
    end = time.monotonic() + 60
    while len(read) <= 2 * 5 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(read) > 2 * 5
