"""Sheets of pictures and PNG files: places, captions, and files that are whole or not there."""

import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UsageError
from imagen_jax.pipeline.sheets import grid, legible, save_png


def plain(side, value):
    return np.full((side, side, 3), value, np.uint8)


def colours(sheet):
    return {tuple(pixel) for pixel in np.asarray(sheet).reshape(-1, 3).tolist()}


def test_pictures_stand_in_rows_on_white():
    sheet = np.asarray(grid([[plain(8, 10), plain(8, 20)], [plain(8, 30)]]))
    left, right = np.argwhere(sheet[..., 0] == 10), np.argwhere(sheet[..., 0] == 20)
    below = np.argwhere(sheet[..., 0] == 30)
    assert len(left) == len(right) == len(below) == 64
    assert (left[0][0], left[0][1]) == (right[0][0], below[0][1])
    assert right[0][1] > left[-1][1] and below[0][0] > left[-1][0]
    assert (sheet[-1] == 255).all() and (sheet[0] == 255).all()


def test_a_cell_enlarges_by_whole_pixels_and_reduces_smoothly():
    checks = np.indices((4, 4)).sum(0) % 2 * 255
    checks = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    assert colours(grid([[checks]], cell=16)) == {(0, 0, 0), (255, 255, 255)}
    assert len(colours(grid([[np.kron(checks, np.ones((3, 3, 1), np.uint8))]], cell=5))) > 2


def test_a_caption_takes_room_below_its_picture_and_is_dark():
    bare, captioned = grid([[plain(64, 255)]]), grid([[plain(64, 255)]], [["a cat"]])
    assert captioned.height > bare.height and captioned.width == bare.width
    assert np.asarray(captioned)[64:].min() < 100


@pytest.mark.parametrize(
    "caption", ["two\nlines", "\t\r\n", "ein Äpfelchen 🍎 苹果", "long " * 20_000, "\x00", ""]
)
def test_any_caption_can_be_written_and_stays_within_its_cell(caption):
    sheet = grid([[plain(32, 255), plain(32, 255)]], [[caption, ""]])
    second = np.asarray(sheet)[:, 40:]
    assert sheet.size == grid([[plain(32, 255)] * 2], [["", ""]]).size
    assert (second == 255).all()


@pytest.mark.parametrize("caption", ["a red apple", "Äpfel, Ökonomie", "яблоко", "תפוח", "تفاحة"])
def test_letters_of_many_scripts_are_drawn_and_each_as_itself(caption):
    assert legible(caption + "\u200d\n")
    blank, drawn, other = (
        np.asarray(grid([[plain(128, 255)]], [[text]])) for text in ("", caption, caption[::-1])
    )
    assert (drawn != blank).any() and (drawn != other).any()


@pytest.mark.parametrize("caption", ["红苹果", "a 🚀", "りんご", "\U000e0041"])
def test_letters_without_a_shape_are_known(caption):
    assert legible(caption) is (caption == "\U000e0041")  # A tag, which is never drawn.


def test_a_png_comes_back_and_its_directory_is_made(tmp_path):
    path, picture = tmp_path / "new" / "deep" / "a.png", np.arange(192, dtype=np.uint8)
    save_png(picture.reshape(8, 8, 3), path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture.reshape(8, 8, 3))
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "directory.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "directory.png"):
        with pytest.raises(UsageError, match=r"\.png cannot be written: .+"):
            save_png(plain(4, 0), path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["directory.png", "file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(plain(4, 7), path)
    before = path.read_bytes()

    def fail(self, file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UsageError, match=r"a\.png cannot be written: No space left on device"):
        save_png(plain(4, 9), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]
