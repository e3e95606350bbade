"""Pictures and masks of all kinds that people have, and what is said of those that do not do."""

import io

import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UsageError
from imagen_jax.pipeline.given import fit, fit_mask, read_mask, read_picture

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 4, 3)).astype(np.uint8)
WHITE_ROW = np.where(np.arange(6)[:, None] == 2, 255, 0).repeat(4, 1).astype(np.uint8)


def arrayed(*given):
    return np.asarray(read_picture(*given))


def test_files_images_and_arrays_give_the_same_picture(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PIXELS), PIXELS):
        np.testing.assert_array_equal(arrayed(given), PIXELS)


def test_grey_and_palette_pictures_become_rgb():
    grey = PIXELS[:, :, 0]
    for given in (grey, grey[:, :, None], Image.fromarray(grey)):
        np.testing.assert_array_equal(arrayed(given), grey[:, :, None].repeat(3, 2))
    palette = Image.fromarray(PIXELS).quantize(24)
    np.testing.assert_array_equal(arrayed(palette), np.asarray(palette.convert("RGB")))


def test_what_is_transparent_lies_on_white():
    alpha = np.zeros((6, 4, 1), np.uint8)
    alpha[3:] = 255
    found = arrayed(np.concatenate([PIXELS, alpha], 2))
    assert (found[:3] == 255).all()
    np.testing.assert_array_equal(found[3:], PIXELS[3:])


def test_sixteen_bits_are_scaled(tmp_path):
    deep = RNG.integers(0, 2**16, (6, 4)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(arrayed(tmp_path / "deep.png")[:, :, 1], deep >> 8)


def test_a_camera_held_on_its_side_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(arrayed(tmp_path / "turned.png"), np.rot90(PIXELS, -1))
    turned = Image.open(tmp_path / "turned.png")
    np.testing.assert_array_equal(arrayed(turned), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no such file.png", "The picture no such file.png cannot be read: No such file"),
        (PIXELS.astype(np.float32), "ndarray, float32 of shape"),
        (PIXELS.astype(np.uint16), "uint16 of shape"),
        (PIXELS[:, :, :2], "has 2 channels; it must have 1, 3 or 4"),
        (PIXELS[:0], "of shape \\(0, 4, 3\\)"),
        (PIXELS[None], "of shape \\(1, 6, 4, 3\\)"),
        ([[1, 2], [3]], "The picture is list"),
        (3, "The picture is int"),
        (Image.fromarray(PIXELS.astype(np.float32)[:, :, 0]), "mode F"),
    ],
)
def test_what_is_no_picture_is_said_in_a_sentence(given, says):
    with pytest.raises(UsageError, match=says):
        read_picture(given)


def test_a_damaged_file_is_named(tmp_path):
    data = io.BytesIO()
    Image.fromarray(PIXELS.repeat(20, 0).repeat(20, 1)).save(data, "PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[:300])
    (tmp_path / "text.png").write_text("no picture")
    for name, says in (("cut", "truncated"), ("text", "of no format that is known")):
        with pytest.raises(UsageError, match=f"{name}.png: .*{says}"):
            read_picture(tmp_path / f"{name}.png")


def test_white_is_repainted_whatever_holds_the_mask(tmp_path):
    wanted = WHITE_ROW == 255
    Image.fromarray(WHITE_ROW).save(tmp_path / "mask.png")
    deep = Image.fromarray(WHITE_ROW.astype(np.uint16) * 257)
    two = Image.fromarray(WHITE_ROW).convert("1")
    palette = Image.fromarray(WHITE_ROW).quantize(2)
    clear = np.zeros((6, 4, 4), np.uint8)  # Black, and transparent where it is repainted.
    clear[:, :, 3] = 255 - WHITE_ROW
    for given in (WHITE_ROW, wanted, tmp_path / "mask.png", deep, two, palette, clear):
        np.testing.assert_array_equal(read_mask(given, (6, 4)), wanted)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda mask: mask[:, :3], "6x3 pixels and the picture 6x4"),
        (lambda mask: mask * 0, "no white pixel; white is repainted"),
        (lambda mask: mask // 2, r"the colour \(127, 127, 127\) in row 2, column 0"),
        (lambda mask: np.stack([mask, mask, 0 * mask], 2), r"the colour \(255, 255, 0\)"),
        (lambda mask: mask // 255, r"the colour \(1, 1, 1\)"),
        (lambda mask: "none.png", "The mask none.png cannot be read"),
    ],
)
def test_masks_that_do_not_do_are_refused(change, says):
    with pytest.raises(UsageError, match=says):
        read_mask(change(WHITE_ROW), (6, 4))


def test_the_centre_is_taken_of_another_ratio():
    wide = np.concatenate([0 * PIXELS, PIXELS, 0 * PIXELS], axis=1)
    np.testing.assert_array_equal(fit(read_picture(wide), (6, 4)), PIXELS)
    mask = (np.arange(12) >= 6)[None].repeat(6, 0)
    np.testing.assert_array_equal(fit_mask(mask, (6, 4)), mask[:, 4:8])


def test_a_small_pixel_is_repainted_if_any_part_of_it_is():
    mask = np.zeros((64, 64), bool)
    mask[17, 40] = True
    small = fit_mask(mask, (4, 4))
    assert np.argwhere(small).tolist() == [[1, 2]]
    np.testing.assert_array_equal(fit_mask(mask, (128, 128)), mask.repeat(2, 0).repeat(2, 1))
    assert fit_mask(np.ones((64, 64), bool), (4, 4)) is None
