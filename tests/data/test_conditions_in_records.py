"""Records of stages that are told classes, pictures and numbers, and need no caption."""

import io
import json

import msgpack
import numpy as np
import pytest
import shards
import tiny
from PIL import Image

from imagen_jax.config import ConditionsConfig, DataConfig
from imagen_jax.data.arrayrecord_source import write_file
from imagen_jax.data.broken import BrokenRecords
from imagen_jax.data.pipeline import LoadExample, ReadBatch, collate, make_dataset
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError

ALL = {"classes": 3, "pictures": ("sketch:1",), "numbers": ("age",)}


def config(data, **changes):
    return tiny.replace(tiny.told(**ALL), data=data, **changes)


def examples(config, count=12):
    source = open_source(config.data, config.low_resolution, config.conditions)
    load = LoadExample(source, config)
    return source, [load(index, np.random.default_rng(index)) for index in range(count)]


@pytest.fixture
def data(tmp_path):
    return tiny.labelled_folder(tmp_path / "pictures")


def test_a_folder_gives_labels_numbers_and_the_pictures_beside_its_pictures(data):
    """What lies beside a picture is none of the records; crops of both are the same part."""
    crop = {"data": {"source": data.source, "crop": 8}}
    source, found = examples(tiny.replace(config(data), **crop))
    assert len(source) == 12 and source.left_out.total() == 0
    assert [example["label"] for example in found] == [0, 1, 2] * 4
    np.testing.assert_allclose([example["age"] for example in found], np.arange(12) / 12)
    for example in found:
        assert example["sketch"].shape == (8, 8, 1)
        grey = np.asarray(Image.fromarray(example["image"]).convert("L"))
        np.testing.assert_array_equal(example["sketch"][..., 0], grey)
    batch = ReadBatch(None)(collate(found))
    assert batch.keys() == {"image", "sketch", "age", "label", "weight", "broken"}
    assert (batch["label"].dtype, batch["age"].dtype) == (np.int32, np.float32)


def test_a_stage_without_conditions_takes_every_picture_of_a_folder(data):
    source, found = examples(tiny.replace(tiny.told(), data=data), 3)
    assert len(source) == 24 and found[0].keys() == {"name", "caption", "image", "broken"}


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"age": 0.5}, "no number label"),
        ({"label": 1}, "no number age"),
        ({"label": 3, "age": 0}, "class out of range (label is 3; there are 0 to 2)"),
        ({"label": -1, "age": 0}, "class out of range (label is -1; there are 0 to 2)"),
        ({"label": 0.5, "age": 0}, "class out of range (label is 0.5; there are 0 to 2)"),
        ({"label": "cat", "age": 0}, "no number label"),
        ({"label": 1, "age": 1e300}, "age out of range (1e+300)"),
    ],
)
def test_a_record_without_its_class_or_number_is_broken(data, values, says, tmp_path):
    (tmp_path / "pictures" / "00.json").write_text(json.dumps(values))
    _, (broken, good, *_) = examples(config(data))
    assert says in broken["broken"].message and good["broken"] is None
    assert not broken["sketch"].any() and (broken["label"], broken["age"]) == (0, 0)
    with pytest.raises(UsageError, match="rows met 1 broken record"):
        source = open_source(data, None, config(data).conditions)
        strict = {"batch_size": 12, "seed": 0, "broken": BrokenRecords(0.0)}
        next(iter(make_dataset(source, config(data), None, **strict)))


def test_a_picture_without_the_one_that_should_lie_beside_it_is_left_out(data, tmp_path):
    (tmp_path / "pictures" / "03.sketch.png").unlink()
    with pytest.raises(UsageError, match=r"1 of 12 records .* 1 no sketch \(as 03\.png\)"):
        examples(config(data))


def test_tar_shards_give_labels_of_their_json_but_no_other_pictures(tmp_path):
    shards.write_shard(tmp_path / "0.tar", [shards.sample(n, label=n, age=n) for n in range(3)])
    data = DataConfig(source=f"webdataset:{tmp_path}")
    told = tiny.replace(tiny.told(classes=3, numbers=("age",)), data=data)
    _, found = examples(told, 3)
    assert [(x["label"], x["age"], x["caption"]) for x in found] == [(n, n, None) for n in range(3)]
    with pytest.raises(UsageError, match=r"of tar shards conditions\.pictures are not read"):
        examples(config(data))


def test_array_records_give_pictures_under_their_names(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(file, "PNG")
    record = {"image": shards.picture(1), "sketch": file.getvalue(), "label": 2, "age": 0.25}
    write_file(tmp_path / "0.arrayrecord", iter([msgpack.packb(record)]))
    _, (example,) = examples(config(DataConfig(source=f"arrayrecord:{tmp_path}")), 1)
    assert example["broken"] is None and np.all(example["sketch"] == 7)
    assert (example["label"], example["age"]) == (2, 0.25)
    with pytest.raises(UsageError, match="no record that fulfils"):
        fields = {"filters": ("label>=3",)}
        open_source(
            DataConfig(source=f"arrayrecord:{tmp_path}", **fields), None,
            ConditionsConfig(text=False),
        )  # fmt: skip
