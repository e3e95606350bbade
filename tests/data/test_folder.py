"""Folders as cameras, editors, links and other people's scripts leave them."""

import json
import os
import pickle
import subprocess
import sys
import tracemalloc

import pytest
from scripts import ROOT, call, verbs
from shards import picture

from imagen_jax.config import DataConfig
from imagen_jax.data.records import BrokenRecord
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError


def open_folder(path, **fields):
    return open_source(DataConfig(source=f"folder:{path}", **fields))


def texts(source):
    return [source[index].captions.all() for index in range(len(source))]


def put(directory, name, text=None, value=1, kind="PNG"):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(value, kind=kind))
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8", newline="")


def test_suffixes_in_any_case_and_all_of_jpegs_are_read(tmp_path):
    for name in ("a.JPG", "b.jfif", "c.jpe", "d.Jpeg", "e.jpeg.jpg"):
        put(tmp_path, name, name, kind="JPEG")
    (tmp_path / "a.txt").rename(tmp_path / "a.TXT")
    (tmp_path / "b.txt").unlink()
    (tmp_path / "b.JSON").write_text('{"caption": "b.jfif", "score": 2}')
    source = pickle.loads(pickle.dumps(open_folder(tmp_path)))
    assert texts(source) == [(name,) for name in ("a.JPG", "b.jfif", "c.jpe", "d.Jpeg",
                                                  "e.jpeg.jpg")]  # fmt: skip
    assert source.metadata(1).numbers == {"score": 2.0}


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path):
    put(tmp_path, "a.png", "a")
    for name in ("b.HEIC", "c.avif", "d.ppm", "e.DNG", "f.apng", "g.raw", "h.EPS"):
        put(tmp_path, name, "?")
    with pytest.warns(UserWarning, match=r"7 of 8 .* 7 format is not read \(as b.HEIC\)"):
        assert len(open_folder(tmp_path, max_broken_share=0.9)) == 1
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match=r"holds no picture .*\(7 format is not read"):
        open_folder(tmp_path)


def test_what_a_camera_keeps_beside_a_picture_is_not_counted(tmp_path, recwarn):
    for name in ("a.jpg", "b/c.JPG", "d.e.png"):
        put(tmp_path, name, name)
    for name in ("a.RAW", "b/c.dng", "d.e.eps"):
        (tmp_path / name).touch()
    assert len(open_folder(tmp_path, max_broken_share=0.0)) == 3
    assert not recwarn.list


def test_only_line_feeds_separate_captions(tmp_path):
    put(tmp_path, "a.png", "red\u2028apple\x85at\x0bnight\x0cor\x1cday\x1dor\rnot\r\n two \n\n")
    (captions,) = texts(open_folder(tmp_path))
    assert captions == ("red\u2028apple\x85at\x0bnight\x0cor\x1cday\x1dor\rnot", "two")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\u200b\n", "no caption"),
        ("\ufeff\ufeff", "no caption"),
        ("\x01\x02\u202e\n\u00ad", "no caption"),
        ("\u3164\u2800\ufe0f", "no caption"),
        ("a" * (2**20 + 1), "caption too long"),
    ],
)
def test_captions_of_which_nothing_can_be_read_break_their_record(text, says, tmp_path):
    put(tmp_path, "a.png", text)
    for read in (open_folder(tmp_path).__getitem__, open_folder(tmp_path).metadata):
        with pytest.raises(BrokenRecord, match=rf"a\.png: {says}"):
            read(0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"caption": "", "text": "a"}, ("a",)),
        ({"caption": " \u200b", "captions": [None, ""], "text": ["a", "\ufeff", "b"]}, ("a", "b")),
        ({"caption": 3, "captions": "a"}, ("a",)),
        ({"caption": None, "text": "a"}, ("a",)),
        ({"caption": "x\ud83c"}, "caption not UTF-8"),
        ({"caption": ["a", "x\ud83c"]}, "caption not UTF-8"),
        ({"caption": {"a": "b"}}, "no caption"),
        ({"caption": [["a"]]}, "no caption"),
        ({"caption": "a" * 2**20, "text": "a"}, "JSON unreadable"),
    ],
)
def test_a_blank_caption_hides_no_other(values, expected, tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "a.json").write_text(json.dumps(values))
    source = open_folder(tmp_path)
    if isinstance(expected, tuple):
        assert texts(source) == [expected]
        assert source.metadata(0).captions.all() == expected
        return
    with pytest.raises(BrokenRecord, match=rf"a\.png: {expected}"):
        source[0]


def test_links_to_directories_are_followed_once(tmp_path):
    put(tmp_path, "set/a.png", "a")
    put(tmp_path, "other/b.png", "b")
    for link, to in (("set/again", "."), ("set/up", ".."), ("set/up2", ".."), ("more", "other")):
        (tmp_path / link).symlink_to(to)
    assert sorted(texts(open_folder(tmp_path))) == [("a",), ("b",)]
    assert sorted(texts(open_folder(tmp_path / "set"))) == [("a",), ("b",)]


def test_what_is_no_file_is_passed_over_and_what_leads_nowhere_is_named(tmp_path):
    put(tmp_path, "a.png", "a")
    put(tmp_path, ".hidden/b.png", "b")
    put(tmp_path, "._a.png", "c")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("pipe", "lost", "loop"):
        (tmp_path / f"{name}.txt").write_text("x")
    source = open_folder(tmp_path)
    assert len(source) == 3
    for index, says in ((1, r"loop\.png: file unreadable"), (2, r"lost\.png: file missing")):
        with pytest.raises(BrokenRecord, match=says):
            source[index]


@pytest.fixture
def unreadable(monkeypatch):
    """Names of files that the system refuses to open, as it does for a user who is not root."""
    names, opened = set(), os.open

    def refuse(path, *args, **kwargs):
        if os.path.basename(path) in names:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    return names


@pytest.mark.parametrize("name", ["b.png", "b.txt"])
def test_a_file_that_cannot_be_read_is_a_broken_record(name, tmp_path, unreadable):
    for letter in "abc":
        put(tmp_path / "in", f"{letter}.png", letter)
    unreadable.add(name)
    source = open_folder(tmp_path / "in")
    with pytest.raises(BrokenRecord, match=rf"{name}: file unreadable \(Permission denied\)"):
        source[1]
    result = call(verbs, "pack", tmp_path / "out", "--source", f"folder:{tmp_path / 'in'}")
    assert result.code == 0 and "2 records" in result.out
    assert f"1 file unreadable (as {name})" in result.out


def test_pack_blames_a_full_disk_and_leaves_no_file(tmp_path):
    """The limit on the size of files that a process may write stands for a full disk."""
    for number in range(4):
        put(tmp_path / "in", f"{number}.png", "a", value=number)
        noise = (tmp_path / "in" / f"{number}.png").read_bytes() + os.urandom(2**16)
        (tmp_path / "in" / f"{number}.png").write_bytes(noise)
    code = (
        "import resource, sys; from imagen_jax.cli.commands import main\n"
        "sys.dont_write_bytecode = True  # It would be cut short too, and stay.\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); main()"
    )
    arguments = ["pack", str(tmp_path / "out"), "--source", f"folder:{tmp_path / 'in'}"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"error: {tmp_path}/out cannot be written: ")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def lines(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    path.write_text(text, encoding="utf-8")


def test_a_metadata_file_names_pictures_and_captions(tmp_path):
    """As Hugging Face's imagefolder has it, below each directory."""
    for name in ("a.png", "b.png", "sub/c.png", "sub/deep/d.png", "e.png"):
        put(tmp_path, name, value=ord(name[-5]))
    (tmp_path / "b.txt").write_text("its own")
    lines(
        tmp_path / "metadata.jsonl", {"file_name": "b.png", "text": "b", "score": 7},
        {"file_name": "a.png", "text": "ein Äpfel", "score": 0.5},
    )  # fmt: skip
    lines(
        tmp_path / "sub" / "metadata.jsonl", {"file_name": "deep/d.png", "caption": ["d", "D"]},
        {"file_name": "./c.png", "caption": " ", "text": "c"},
    )  # fmt: skip
    (tmp_path / "e.json").write_text('{"text": "e"}')
    source = pickle.loads(pickle.dumps(open_folder(tmp_path)))
    expected = [("ein Äpfel",), ("its own",), ("e",), ("c",), ("d", "D")]
    assert texts(source) == expected
    assert [source.metadata(index).captions.all() for index in range(5)] == expected
    assert source[4].image == picture(ord("d"))
    assert [source.metadata(index).numbers.get("score") for index in (0, 1, 2)] == [0.5, 7, None]
    assert texts(open_folder(tmp_path, filters=("score>1",))) == [("its own",)]


def test_a_line_that_is_too_long_is_not_read_into_memory(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, f"{name}.png")
        lines(tmp_path / f"{name}.jsonl", {"file_name": f"{name}.png", "text": name})
    with (tmp_path / "metadata.jsonl").open("wb") as file:
        file.write((tmp_path / "a.jsonl").read_bytes().strip() + b"\n")
        file.seek(2**27, os.SEEK_CUR)  # A hole, which takes no place.
        file.write(b"\n" + (tmp_path / "b.jsonl").read_bytes())
    tracemalloc.start()
    with pytest.warns(UserWarning, match=r"1 JSON unreadable \(as metadata\.jsonl, byte \d+\)"):
        source = open_folder(tmp_path, max_broken_share=1.0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert texts(source) == [("a",), ("b",)]
    assert most < 2**25


def test_lines_that_cannot_be_used_are_counted(tmp_path):
    put(tmp_path, "a.png")
    put(tmp_path, "b.png")
    lines(
        tmp_path / "metadata.jsonl", {"file_name": "a.png", "text": "a"},
        {"file_name": "gone.png", "text": "x"}, {"file_name": "../../b.png", "text": "x"},
        {"text": "x"}, [1], {"file_name": 3}, {"file_name": "a.png", "text": "again"},
    )  # fmt: skip
    with (tmp_path / "metadata.jsonl").open("ab") as file:
        file.write(b'\n\xff\n{"file_name": "b.png"')
    with pytest.warns(UserWarning) as shown:
        assert texts(open_folder(tmp_path, max_broken_share=1.0)) == [("a",)]
    (said,) = (str(one.message) for one in shown)
    assert "2 file missing" in said and "3 JSON unreadable" in said and "2 no file_name" in said
    assert "1 named in two lines" in said and "1 no caption (as b.png)" in said
