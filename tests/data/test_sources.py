"""Folder and tfds sources: what they read, and the mistakes they name."""

import io
import pickle
import re
import socket
from typing import ClassVar

import numpy as np
import pytest
import shards
import tensorflow_datasets as tfds
from PIL import Image

from imagen_jax.config import ConditionsConfig, DataConfig
from imagen_jax.data import emoji_concepts, emoji_vectors, tfds_builders
from imagen_jax.data.records import BrokenRecord
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError


def png(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(data, "PNG")
    return data.getvalue()


def all_captions(record) -> set[str]:
    """What is drawn, which is all that is listed."""
    rng = np.random.default_rng(0)
    drawn = {record.captions.draw(rng) for _ in range(50)}
    assert drawn <= set(record.captions.all())
    return drawn


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, text in (("a.png", "one\n\n  two  \n"), ("sub/b.PNG", "drei\n")):
        path = tmp_path / name
        path.write_bytes(png(len(name)))
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return tmp_path


def open_folder(path):
    return open_source(DataConfig(source=f"folder:{path}"))


def test_folder_pairs_pictures_with_the_lines_beside_them(folder):
    source = open_folder(folder)
    assert len(source) == 2
    assert [all_captions(record) for record in (source[0], source[1])] == [{"one", "two"}, {"drei"}]
    assert source[1].image == (folder / "sub" / "b.PNG").read_bytes()
    assert source[1].name.endswith("b.PNG")
    assert not source[0].pictures
    assert source.metadata(0).captions.all() == ("one", "two")


def test_folder_source_can_go_to_a_worker_process(folder):
    assert all_captions(pickle.loads(pickle.dumps(open_folder(folder)))[0]) == {"one", "two"}


def test_folder_mistakes_are_named(folder):
    with pytest.raises(UsageError, match="no such directory"):
        open_folder(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match=r"there is no file .*empty/\*\*"):
        open_folder(folder / "empty")
    (folder / "a.txt").unlink()
    with pytest.raises(UsageError, match=r"1 of 2 .* 1 no caption \(as a\.png\)"):
        open_folder(folder)
    (folder / "sub" / "b.txt").unlink()
    with pytest.raises(UsageError, match="holds no picture .* beside a .txt or .json file"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("text", "says"), [(b" \n", "no caption"), (b"\xff\xfe", "caption not UTF-8")]
)
def test_a_broken_caption_of_a_folder_is_named(text, says, folder):
    (folder / "a.txt").write_bytes(text)
    source = open_folder(folder)
    with pytest.raises(BrokenRecord, match=rf"a\.png: {says}"):
        source[0]
    assert all_captions(source[1]) == {"drei"}


def test_a_file_that_goes_is_a_broken_record(folder):
    source = open_folder(folder)
    (folder / "a.png").unlink()
    with pytest.raises(BrokenRecord, match=r"a\.png: file missing"):
        source[0]


def test_folders_have_json_too(folder):
    (folder / "a.json").write_text('{"caption": "other", "similarity": 0.5}')
    (folder / "sub" / "b.txt").rename(folder / "sub" / "b.json")
    (folder / "sub" / "b.json").write_text('{"caption": "vier"}')
    source = open_folder(folder)
    assert [all_captions(source[index]) for index in (0, 1)] == [{"one", "two"}, {"vier"}]
    assert source.metadata(0).numbers == {"similarity": 0.5}
    assert source.metadata(1).captions.all() == ("vier",)


def test_a_folder_takes_few_bytes_a_record(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number:06}.jpg").touch()
        (tmp_path / f"{number:06}.txt").touch()
    assert len(pickle.dumps(open_folder(tmp_path))) < 30 * 1000


def test_a_folder_may_lie_in_a_bucket(folder, bucket):
    for path in folder.rglob("*.*"):
        (bucket / path.relative_to(folder)).write_bytes(path.read_bytes())
    source = open_folder("gs://bucket/run")
    assert [all_captions(source[index]) for index in (0, 1)] == [{"one", "two"}, {"drei"}]
    assert source[1].image == (folder / "sub" / "b.PNG").read_bytes()


class _Tiny(tfds.core.GeneratorBasedBuilder):
    """Four grey pictures; subclasses say which features."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES: ClassVar = {}
    skip_registration = True

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self.FEATURES)
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(4):
            yield number, self.example(number)


def _image() -> tfds.features.Image:
    return tfds.features.Image(encoding_format="png")


class TinyNested(_Tiny):
    """Captions as COCO has them, beside another text, with a true low-resolution picture."""

    FEATURES: ClassVar = {
        "image": _image(),
        "low_res": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
        "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
        "file_name": tfds.features.Text(),
    }

    def example(self, number):
        texts = [{"text": f"caption {number}"}, {"text": f"other {number}"}]
        low_res = png(100 + number)
        return {"image": png(number), "low_res": low_res, "captions": texts, "file_name": "x"}


class TinyLaion(_Tiny):
    """The features of laion400m/images."""

    FEATURES: ClassVar = {
        "image": tfds.features.Image(), "caption": tfds.features.Text(),
        "nsfw": tfds.features.ClassLabel(names=["UNLIKELY", "UNSURE", "NSFW", "UNTAGGED"]),
        "similarity": tfds.features.Scalar(np.float64), "license": tfds.features.Text(),
        "url": tfds.features.Text(), "original_width": tfds.features.Scalar(np.int32),
        "original_height": tfds.features.Scalar(np.int32),
    }  # fmt: skip

    def example(self, number):
        return {
            "image": png(number), "caption": f"é {number}", "nsfw": "UNSURE",
            "similarity": number / 10, "license": "?", "url": "http://x",
            "original_width": 100 + number, "original_height": 50,
        }  # fmt: skip


class TinyCoco(_Tiny):
    """The features of coco_captions."""

    FEATURES: ClassVar = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
        "objects": tfds.features.Sequence(
            {
                "id": np.int64, "area": np.int64, "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(num_classes=80), "is_crowd": np.bool_,
            }
        ),
    }  # fmt: skip

    def example(self, number):
        captions = [{"text": f"caption {number} {place}", "id": place} for place in range(5)]
        image = shards.picture(number, kind="JPEG")
        return {
            "image": image, "image/filename": "x.jpg", "image/id": number, "captions": captions,
            "objects": [],
        }  # fmt: skip


class TinyOtherNames(_Tiny):
    """One image and one text of uncommon names."""

    FEATURES: ClassVar = {"photo": _image(), "words": tfds.features.Text()}

    def example(self, number):
        return {"photo": png(number), "words": "ein Bild" if number else " "}


class TinyClasses(_Tiny):
    """A label and another picture, and no text."""

    FEATURES: ClassVar = {
        "image": _image(), "edges": _image(), "kind": tfds.features.ClassLabel(names=["a", "b"])
    }  # fmt: skip

    def example(self, number):
        return {"image": png(number), "edges": png(50 + number), "kind": "ab"[number % 2]}


class TinyWithoutText(_Tiny):
    """No caption."""

    FEATURES: ClassVar = {"image": _image()}

    def example(self, number):
        return {"image": png(number)}


class TinyAmbiguous(_Tiny):
    """Two images, none of them named image."""

    FEATURES: ClassVar = {"left": _image(), "right": _image(), "caption": tfds.features.Text()}

    def example(self, number):
        return {"left": png(number), "right": png(number), "caption": "a"}


def open_tfds(name, directory, low_resolution=None, split="train"):
    config = DataConfig(source=name, data_dir=str(directory), split=split)
    return open_source(config, low_resolution)


def test_nested_captions_are_found_and_images_stay_encoded(tmp_path):
    source = open_tfds("tiny_nested", tmp_path)
    records = {all_captions_key(record): record for record in map(source.__getitem__, range(4))}
    assert len(source) == 4
    for number in range(4):
        assert records[f"caption {number}"].image == png(number)


def all_captions_key(record) -> str:
    first, second = sorted(all_captions(record))
    assert second == first.replace("caption", "other")
    return first


def test_features_of_laion_are_read(tmp_path):
    source = open_tfds("tiny_laion", tmp_path)
    for index in range(4):
        (text,) = source[index].captions.all()
        number = int(text.removeprefix("é "))
        assert source[index].image == png(number)
        assert source.metadata(index).captions.all() == (text,)
        assert source.metadata(index).numbers == {
            "similarity": pytest.approx(number / 10), "original_width": 100.0 + number,
            "original_height": 50.0, "nsfw": 1.0,
        }  # fmt: skip


def test_features_of_coco_are_read(tmp_path):
    source = open_tfds("tiny_coco", tmp_path)
    for index in range(4):
        texts = source[index].captions.all()
        number = int(source.metadata(index).numbers["image/id"])
        assert texts == tuple(f"caption {number} {place}" for place in range(5))
        assert source[index].image == shards.picture(number, kind="JPEG")


def test_low_res_is_given_only_at_the_size_of_the_stage(tmp_path):
    assert open_tfds("tiny_nested", tmp_path, low_resolution=8)[0].pictures
    assert not open_tfds("tiny_nested", tmp_path, low_resolution=4)[0].pictures
    assert not open_tfds("tiny_nested", tmp_path)[0].pictures


def test_labels_and_other_pictures_are_read_where_no_text_is(tmp_path):
    config = DataConfig(source="tiny_classes", data_dir=str(tmp_path))
    source = open_source(config, None, ConditionsConfig(text=False, pictures=("edges",)))
    for index in range(4):
        record = source[index]
        number = int(np.asarray(Image.open(io.BytesIO(record.image)))[0, 0, 0])
        assert record.captions is None and record.pictures == {"edges": png(50 + number)}
        assert source.metadata(index).numbers == {"kind": number % 2}
    with pytest.raises(UsageError, match="conditions.pictures has 'sketch'; .* edges"):
        open_source(config, None, ConditionsConfig(text=False, pictures=("sketch",)))
    with pytest.raises(UsageError, match="needs one text feature"):
        open_source(config)


def test_the_only_image_and_the_only_text_need_no_common_name(tmp_path):
    source = open_tfds("tiny_other_names", tmp_path, split="train[:4]")
    found = []
    for index in range(4):
        try:
            found.append(source[index])
        except BrokenRecord as error:
            assert f"[{index}]: no caption" in str(error)
    assert len(found) == 3 and all_captions(found[0]) == {"ein Bild"}


def test_tfds_source_can_go_to_a_worker_process(tmp_path):
    source = open_tfds("tiny_nested", tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert copy[2].image == source[2].image


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_without_text", "it has none"),
        ("tiny_ambiguous", "it has left, right"),
        ("no_such_data_set", "'no_such_data_set'; tfds cannot open it"),
        ("captioned_emoji/core_65", "core_65"),
        ("captioned_emoji/core_64:9.9.9", "9.9.9"),
        ("not a name", "tfds cannot open it"),
    ],
)
def test_tfds_mistakes_are_named_in_one_line(name, message, tmp_path):
    with pytest.raises(UsageError, match=message) as raised:
        open_tfds(name, tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("coco_caption", "did you mean coco_captions"),
        ("captioned_emojis/core_64", "did you mean captioned_emoji?"),
        ("huggingface:x/y", "huggingface: is none of folder:, webdataset:, arrayrecord:"),
        ("kubric:kubric_frames", "kubric: is none of"),
        ("folders:x", "folders: is none of folder:"),
        ("folder:", "name a directory behind the colon"),
        ("/nowhere/at/all", "no tfds name; sources that are files begin with folder:"),
        ("./nowhere", "no tfds name"),
        ("gs://bucket/x", "no tfds name"),
        ("x/*.tar", "no tfds name"),
        ("", "tfds cannot open it"),
    ],
)
def test_a_name_that_is_none_is_told_without_a_network(name, says, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    with pytest.raises(UsageError, match=re.escape(says)):
        open_tfds(name, tmp_path)


def test_a_path_is_told_which_prefix_it_lacks(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").touch()
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "0.arrayrecord").touch()
    for name, prefix in (
        (f"{folder}/sub", "folder:"), ("sub", "folder:"), ("tars", "webdataset:"),
        ("tars/*.tar", "webdataset:"), ("records", "arrayrecord:"),
        ("./records/0.arrayrecord", "arrayrecord:"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=rf"a path; write {prefix}{re.escape(name)}$"):
            open_source(DataConfig(source=name))
    (tmp_path / "tiny_nested").mkdir()  # What tfds knows goes before.
    assert len(open_tfds("tiny_nested", tmp_path / "data")) == 4


class TinyNeedsMore(TinyNested):
    """A builder whose code imports what is not installed."""

    missing = False

    def __init__(self, **kwargs):
        if self.missing:
            raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
        super().__init__(**kwargs)


def test_code_that_cannot_be_imported_is_needed_to_build_only(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyNeedsMore, "missing", True)
    with pytest.raises(UsageError, match=r"open it \(No module named 'tensorflow'\); install"):
        open_tfds("tiny_needs_more", tmp_path)
    monkeypatch.setattr(TinyNeedsMore, "missing", False)
    open_tfds("tiny_needs_more", tmp_path)
    monkeypatch.setattr(TinyNeedsMore, "missing", True)
    assert len(open_tfds("tiny_needs_more", tmp_path)) == 4


def test_what_another_process_builds_at_the_same_time_is_used(tmp_path, monkeypatch):
    """The one that comes second cannot put its own in place."""
    build = _Tiny._generate_examples

    def while_another_does(self):
        monkeypatch.setattr(_Tiny, "_generate_examples", build)
        open_tfds("tiny_nested", tmp_path)
        yield from build(self)

    monkeypatch.setattr(_Tiny, "_generate_examples", while_another_does)
    assert len(open_tfds("tiny_nested", tmp_path)) == 4


def test_what_cannot_be_built_is_named(tmp_path, monkeypatch):
    def fail(self):
        raise OSError(101, "Network is unreachable")
        yield

    monkeypatch.setattr(_Tiny, "_generate_examples", fail)
    with pytest.raises(UsageError, match="tiny_nested cannot be prepared: Network is unreachable"):
        open_tfds("tiny_nested", tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"\xff" + data])
def test_a_prepared_data_set_that_is_damaged_is_named(damage, tmp_path):
    open_tfds("tiny_nested", tmp_path)
    (info,) = tmp_path.rglob("dataset_info.json")
    info.write_bytes(damage(info.read_bytes()))
    with pytest.raises(UsageError, match="'tiny_nested'; tfds cannot open it: ") as raised:
        open_tfds("tiny_nested", tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("split", ["validation", "train[:x]", "train[100:]", "train[:0]"])
def test_unknown_split_is_named(split, tmp_path):
    with pytest.raises(UsageError, match=r"data\.split"):
        open_tfds("tiny_other_names", tmp_path, split=split)


def test_emoji_records_draw_captions_from_their_words(monkeypatch, tmp_path):
    apple_and_fox = [emoji_vectors.concepts()[key] for key in ("1f34e", "1f98a")]
    monkeypatch.setattr(emoji_concepts, "core_concepts", lambda: apple_and_fox)
    source = open_tfds("captioned_emoji/core_64", tmp_path)
    drawn = set().union(*(all_captions(source[index]) for index in range(len(source))))
    assert {"a red apple", "noto red apple", "a red apple in fluent style"} <= drawn
    assert "a fox in noto style" in drawn
    assert "a fox in twemoji style" not in drawn, "It is held out."
    styles = {source.metadata(index).numbers["style"] for index in range(len(source))}
    assert styles == {0, 1, 2}


def test_data_sets_are_built_once(tmp_path):
    data_path = tfds_builders.open_builder("tiny_other_names", str(tmp_path)).data_path
    open_tfds("tiny_other_names", tmp_path)
    before = data_path.stat().mtime
    open_tfds("tiny_other_names", tmp_path)
    assert data_path.stat().mtime == before


@pytest.mark.parametrize("name", ["tiny_without_text", "tiny_ambiguous"])
def test_what_cannot_be_used_is_not_built(name, tmp_path):
    with pytest.raises(UsageError, match="it has"):
        open_tfds(name, tmp_path)
    assert not list(tmp_path.iterdir())
