"""Which pictures of a directory are measured, and what is said of those that cannot be."""

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UsageError
from imagen_jax.evaluation.pictures import open_pictures, read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def save(path, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).convert(mode).save(path)
    return path


def manifest(directory, pictures, stages=2):
    content = {"pictures": pictures, "stages": [{}] * stages}
    (directory / "manifest.json").write_text(json.dumps(content))


def test_pictures_at_any_depth_come_in_the_order_of_their_names(tmp_path):
    for name in ("b.png", "a/2.JPG", "a/10.webp", "c.bmp"):
        save(tmp_path / name)
    (tmp_path / "a" / "words.txt").write_text("no picture")
    pictures = open_pictures(tmp_path)
    assert pictures.names == ("a/10.webp", "a/2.JPG", "b.png", "c.bmp")
    assert len(pictures) == 4 and pictures.prompts == ()


def test_hidden_pictures_are_passed_over(tmp_path):
    for name in ("1.png", ".thumbnails/1.png", "a/.git/2.png", "a/..3.png/4.png"):
        save(tmp_path / name)
    (tmp_path / "._1.png").write_bytes(b"\x00\x05\x16\x07")  # As macOS leaves them on other disks.
    assert open_pictures(tmp_path).names == ("1.png",)


def test_a_set_is_known_by_names_and_sizes(tmp_path):
    path = save(tmp_path / "a.png")
    before = open_pictures(tmp_path).listing
    assert open_pictures(tmp_path).listing == before
    path.write_bytes(path.read_bytes() + b"x")
    larger = open_pictures(tmp_path).listing
    path.rename(tmp_path / "b.png")
    assert len({before, larger, open_pictures(tmp_path).listing}) == 3


def test_of_a_run_the_last_stages_pictures_are_taken_with_their_prompts(tmp_path):
    for name in ("0-64.png", "0-256.png", "1-64.png", "1-256.png", "contact_sheet.png"):
        save(tmp_path / name)
    rows = [
        {"prompt": text, "files": [f"{n}-64.png", f"{n}-256.png"]} for n, text in enumerate("ab")
    ]
    manifest(tmp_path, rows)
    pictures = open_pictures(tmp_path)
    assert pictures.names == ("0-256.png", "1-256.png") and pictures.prompts == ("a", "b")


def test_an_unfinished_run_is_refused(tmp_path):
    manifest(tmp_path, [{"prompt": "a", "files": ["0-64.png"]}])
    with pytest.raises(UsageError, match="unfinished: picture 0 .* by all 2 stages"):
        open_pictures(tmp_path)


@pytest.mark.parametrize(
    "content", [{}, {"pictures": 3, "stages": [1]}, {"pictures": [], "stages": []}]
)
def test_a_manifest_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="is not one that sample.py wrote"):
        open_pictures(tmp_path)


def test_a_manifest_names_nothing_outside_of_its_directory(tmp_path):
    for name in ("/etc/passwd", "../a.png", "a/../../b.png", "a\0.png", "\ud800.png"):
        manifest(tmp_path, [{"prompt": "a", "files": [name]}], stages=1)
        with pytest.raises(UsageError, match="names the picture .* is no file below it"):
            open_pictures(tmp_path)


def test_a_manifest_says_every_prompt(tmp_path):
    for entry in ({}, {"prompt": None}, {"prompt": 3}):
        manifest(tmp_path, [{**entry, "files": ["a.png"]}], stages=1)
        with pytest.raises(UsageError, match="does not say the prompt of picture 0"):
            open_pictures(tmp_path)


def test_pictures_may_lie_below_the_directory_of_their_manifest(tmp_path):
    manifest(tmp_path, [{"prompt": "a", "files": ["00000/samples/00000.png"]}], stages=1)
    assert open_pictures(tmp_path).names == ("00000/samples/00000.png",)


def test_a_directory_without_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no picture; their names must end with one of .bmp"):
        open_pictures(tmp_path)
    with pytest.raises(UsageError, match="is no directory of pictures"):
        open_pictures(tmp_path / "nowhere")


def test_pixels_and_bytes_are_those_of_the_file(tmp_path):
    path = save(tmp_path / "a.png")
    picture, data = read_picture(path)
    np.testing.assert_array_equal(picture, PIXELS)
    assert hashlib.sha256(data).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_grey_pictures_have_three_equal_channels(tmp_path):
    picture, _ = read_picture(save(tmp_path / "a.png", "L"))
    assert picture.shape == (5, 7, 3)
    np.testing.assert_array_equal(picture, picture[:, :, :1].repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1"])
def test_other_modes_are_refused(tmp_path, mode):
    path = save(tmp_path / "a.png", mode)
    with pytest.raises(UsageError, match=f"a.png is a picture of mode '{mode}'; .* one of RGB, L"):
        read_picture(path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="a.png cannot be read as a picture"):
        read_picture(path)


def test_a_picture_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "a.bmp"
    save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match="a.bmp cannot be read as a picture"):
        read_picture(path)


def test_prompts_go_by_numbers_where_pictures_are_called_by_them(tmp_path):
    """Other tools write 0.png to 99.png, of which 10.png comes before 2.png by name."""
    for number in range(12):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{number}.png")
    prompts = [f"prompt {number}" for number in range(12)]
    paired = open_pictures(tmp_path).with_prompts(prompts, 1)
    assert paired.names == tuple(f"{number}.png" for number in range(12))
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    named = open_pictures(tmp_path).with_prompts([*prompts, "x"], 1)
    assert named.names == open_pictures(tmp_path).names


def test_a_name_that_is_not_unicode_is_a_name(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    plain = open_pictures(tmp_path).listing
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    assert open_pictures(tmp_path).listing != plain
