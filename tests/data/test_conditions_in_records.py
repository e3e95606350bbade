"""Records of stages that are told classes, pictures and numbers, and need no caption."""

import dataclasses
import io
import json
import struct
import zlib

import msgpack
import numpy as np
import pytest
import shards
import tiny
from PIL import Image
from scripts import call, verbs

from imagen_jax.config import ConditionsConfig, DataConfig
from imagen_jax.config.conditions import PictureCondition
from imagen_jax.data import shown
from imagen_jax.data.arrayrecord_source import write_file
from imagen_jax.data.broken import BrokenRecords
from imagen_jax.data.pipeline import LoadExample, ReadBatch, collate, make_dataset
from imagen_jax.data.records import BrokenRecord
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


def test_the_class_is_the_number_that_the_config_names(data, tmp_path):
    for number in range(12):
        path = tmp_path / "pictures" / f"{number:02}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"style": (number + 1) % 3}))
    _, found = examples(tiny.replace(config(data), data={"label_feature": "style"}))
    assert [example["label"] for example in found] == [1, 2, 0] * 4


def test_a_stage_without_conditions_takes_every_picture_of_a_folder(data):
    source, found = examples(tiny.replace(tiny.told(), data=data), 3)
    assert len(source) == 24 and found[0].keys() == {"name", "caption", "image", "broken"}


def test_numbers_that_are_kept_are_those_of_a_stages_own_records(data):
    """Another stage's records of the same folder are others: 24, and 12."""
    filtered = dataclasses.replace(data, filters=("side>=1",))
    for stage, count in ((tiny.told(), 24), (config(data), 12), (tiny.told(), 24)):
        source = open_source(filtered, conditions=stage.conditions)
        assert len(source) == count and source.metadata(count - 1)


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


def test_the_name_of_what_a_folder_shows_may_be_in_any_case(data, tmp_path):
    """As in tar shards."""
    told = config(data)
    before = [example["sketch"] for example in examples(told, 2)[1]]
    (tmp_path / "pictures" / "00.sketch.png").rename(tmp_path / "pictures" / "00.SKETCH.PNG")
    source, found = examples(told, 2)
    assert len(source) == 12
    np.testing.assert_array_equal([example["sketch"] for example in found], before)


def test_tar_shards_give_labels_of_their_json_and_pictures_beside_theirs(tmp_path):
    """In any order and case; the index of a stage without them stays another one."""
    samples = [shards.sample(n, label=n, age=n) for n in range(3)]
    for n, files in enumerate(samples):
        files["Sketch.PNG"] = shards.picture(10 + n)
    samples += [shards.sample(3, label=0, age=0)]
    shards.write_shard(tmp_path / "0.tar", [dict(reversed(x.items())) for x in samples])
    data = DataConfig(source=f"webdataset:{tmp_path}", max_broken_share=0.5)
    told = tiny.replace(tiny.told(classes=4, numbers=("age",)), data=data)
    _, found = examples(told, 4)
    assert [(x["label"], x["caption"]) for x in found] == [(n, None) for n in (0, 1, 2, 0)]
    with pytest.warns(UserWarning, match=r"1 of 4 records .* 1 no sketch \(as 0.tar/000000003\)"):
        source, found = examples(config(data), 3)
    assert len(source) == 3 and [x["label"] for x in found] == [0, 1, 2]
    assert [int(x["sketch"].max()) for x in found] == [10, 11, 12]


MAPS = {"pictures": ("labels:classes=4", "depth:1", "hole:mask")}


def mapped_folder(directory, side=32):
    """Two pictures in four parts of other colours, each beside maps of those parts."""
    directory.mkdir()
    quarters = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((side // 2,) * 2, np.uint8))
    for number in range(2):
        colours = np.stack([60 * quarters, 255 - 60 * quarters, 9 * quarters], -1)
        Image.fromarray(colours).save(directory / f"{number}.png")
        Image.fromarray(quarters).save(directory / f"{number}.labels.png")
        Image.fromarray(60 * quarters).save(directory / f"{number}.depth.png")
        Image.fromarray(np.where(quarters == 3, 255, 0).astype(np.uint8)).save(
            directory / f"{number}.hole.png"
        )
    return DataConfig(source=f"folder:{directory}")


def test_maps_are_fitted_by_their_kind_and_cut_and_mirrored_as_their_picture(tmp_path):
    """Whatever is drawn, every map says the same of a place as the picture does."""
    data = dataclasses.replace(mapped_folder(tmp_path / "x"), crop=8, flip=0.5)
    told = tiny.replace(tiny.told(**MAPS), data=data)
    load = LoadExample(open_source(told.data, None, told.conditions), told)
    mirrored = set()
    for draw in range(20):
        example = load(0, np.random.default_rng(draw))
        labels = example["labels"][..., 0]
        assert labels.shape == (8, 8) and set(np.unique(labels)) <= {0, 1, 2, 3}
        flat = example["image"][..., 0] % 60 == 0  # Not on the borders, where colours mix.
        np.testing.assert_array_equal(labels[flat], example["image"][..., 0][flat] // 60)
        np.testing.assert_array_equal(example["hole"][..., :3], example["image"])
        np.testing.assert_array_equal(example["hole"][..., 3] == 255, labels == 3)
        assert set(np.unique(example["depth"])) <= {0, 60, 120, 180}
        mirrored.add(bool(labels[0, 0] > labels[0, -1] or labels[-1, 0] > labels[-1, -1]))
    assert mirrored == {True, False}


def test_numbers_of_a_map_are_never_mixed_and_greys_are_means_of_areas():
    numbers = np.kron(np.array([[0, 3], [3, 0]], np.uint8), np.ones((5, 5), np.uint8))
    image = Image.fromarray(numbers)
    found = np.asarray(shown.fit(PictureCondition("x", "labels", 4), image, (3, 3)))
    assert set(np.unique(found)) == {0, 3}
    means = np.asarray(
        shown.fit(PictureCondition("x", "grey"), Image.fromarray(20 * numbers), (1, 1))
    )
    assert means == [[30]]
    mask = np.zeros((8, 8), np.uint8)
    mask[3, 3] = 255
    found = np.asarray(shown.fit(PictureCondition("x", "mask"), Image.fromarray(mask), (2, 2)))
    assert found.tolist() == [[255, 0], [0, 0]]


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


LABELS = PictureCondition("labels", "labels", 4)


def grey_png(bits: int, row: int) -> bytes:
    """One row of greys of fewer than 8 bits, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes((0, row))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def grey_bmp(*numbers: int) -> bytes:
    """A row of four bits a pixel, whose palette is the greys 0 to 15."""
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(16))
    row = bytes(16 * left + right for left, right in zip(numbers[::2], numbers[1::2], strict=True))
    info = struct.pack("<IiiHHIIiiII", 40, len(numbers), 1, 1, 4, 0, len(row), 0, 0, 16, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(row), 0, 0, start) + info + palette + row


GREY = Image.new("L", (8, 8))
TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(Image.fromarray(np.array([[0, 3, 255]], np.uint8))), [[0, 3, 255]]),
        (saved(Image.fromarray(np.array([[0, 3, 255]], np.uint16))), [[0, 3, 255]]),
        (saved(Image.fromarray(np.array([[False, True]]))), [[0, 1]]),
        (saved(Image.fromarray(np.array([[1, 2]], np.uint8)), exif=TURNED), [[1], [2]]),
        (saved(Image.fromarray(np.array([[2, 1]], np.uint8)).convert("P")), [[2, 1]]),
        (saved(Image.fromarray(np.array([[2, 1]], np.uint8)), "TIFF"), [[2, 1]]),
        (saved(Image.fromarray(np.array([[2, 1]], np.uint8)), "BMP"), [[2, 1]]),
    ],
)
def test_a_map_is_its_numbers_whatever_file_holds_them(data, expected):
    assert np.asarray(shown.read(LABELS, data, "x", 2)).tolist() == expected


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (saved(Image.fromarray(np.array([[4]], np.uint8))), r"has 4; there are 0 to 3, and 255"),
        (saved(Image.fromarray(np.array([[256]], np.uint16))), r"has 256; there are 0 to 3"),
        (saved(Image.new("RGB", (2, 2))), "labels without numbers .mode RGB"),
        (saved(Image.new("LA", (2, 2))), "labels without numbers .mode LA"),
        (saved(Image.new("L", (8, 8)), "JPEG"), "labels in a lossy format .JPEG"),
        (saved(GREY, "MPO", save_all=True, append_images=[GREY]), "labels in a lossy format .MPO"),
        (saved(GREY, "TIFF", compression="jpeg"), "labels in a lossy format .TIFF of JPEG"),
        (saved(GREY, "GIF"), "labels in a format whose numbers programs change .GIF"),
        (grey_png(2, 0b00011011), "labels in greys that are scaled"),
        (grey_png(4, 0x01), "labels in greys that are scaled"),
        (saved(GREY, "TIFF", tiffinfo={262: 0}), "labels in greys that are scaled"),
        (grey_bmp(*[0, 1, 2, 3] * 4), "labels in greys that are scaled"),
        (saved(Image.new("L", (8, 8)))[:40], "x: picture"),
        (b"no picture", "x: picture undecodable"),
    ],
)
def test_a_map_without_the_numbers_of_classes_is_broken(data, says):
    with pytest.raises(BrokenRecord, match=says):
        shown.read(LABELS, data, "x", 2)


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize(
    ("size", "says"),
    [((32, 32), None), ((64, 64), None), ((31, 32), None), ((32, 16), "labels of another ratio")],
)
def test_a_map_may_be_of_another_size_than_its_picture_but_not_of_another_shape(
    size, says, tmp_path
):
    data = mapped_folder(tmp_path / "x")
    Image.new("L", size).save(tmp_path / "x" / "0.labels.png")
    told = tiny.replace(tiny.told(**MAPS), data=data)
    _, (first, second) = examples(told, 2)
    assert second["broken"] is None and (first["broken"] is None) == (says is None)
    assert says is None or says in first["broken"].message
    weight = ReadBatch(None)(collate([first, second]))["weight"]
    assert weight.tolist() == [1.0 if says is None else 0.0, 1.0]
    assert first["hole"].shape == (16, 16, 4)


def test_what_is_packed_has_its_maps_and_a_broken_one_is_left_out(tmp_path):
    data = mapped_folder(tmp_path / "x")
    (tmp_path / "x" / "1.labels.png").write_bytes(b"no picture")
    for number in range(2):
        (tmp_path / "x" / f"{number}.txt").write_text("a square")
    done = call(verbs, "pack", tmp_path / "out", "--source", data.source, "--pictures",
                *MAPS["pictures"])  # fmt: skip
    assert done.code == 0 and "1 picture undecodable" in done.out
    packed = DataConfig(source=f"arrayrecord:{tmp_path / 'out'}")
    told = tiny.replace(tiny.told(**MAPS), data=packed)
    source, (example,) = examples(told, 1)
    assert len(source) == 1 and example["broken"] is None
    assert set(np.unique(example["labels"])) == {0, 1, 2, 3}


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
