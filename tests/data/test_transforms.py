"""Decoding and cropping against pictures whose pixels are known."""

import io

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data import transforms
from imagen_jax.errors import UsageError


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def decode(data: bytes) -> np.ndarray:
    return np.asarray(transforms.decode(data, "record 7", 8))


def gradient(side: int) -> np.ndarray:
    """Every pixel tells its place: red is the column, green the row."""
    rows, columns = np.mgrid[:side, :side]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def test_png_round_trip_is_exact():
    picture = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(picture))), picture)


def test_transparent_parts_become_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, :, 3] = 255
    rgba[1, 1] = (200, 0, 0, 128)
    decoded = decode(encode(Image.fromarray(rgba)))
    assert (decoded[0] == 0).all() and (decoded[1, 0] == 255).all()
    np.testing.assert_allclose(decoded[1, 1], [227, 127, 127], atol=1)  # c a + 255 (1 - a)


def test_palette_with_a_transparent_entry_is_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putdata([0, 1])
    decoded = decode(encode(image, transparency=0))
    assert decoded.tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("mode", ["L", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = Image.fromarray(np.full((3, 3, 3), 255, np.uint8)).convert(mode)
    assert (decode(encode(image, kind)) == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.array([[0, 0x8000, 0xFFFF]], np.uint16)
    assert decode(encode(Image.fromarray(grey)))[0, :, 0].tolist() == [0, 128, 255]


def test_exif_orientation_is_applied():
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise: left becomes top.
    decoded = decode(encode(Image.fromarray(picture), "JPEG", exif=exif, quality=95))
    assert decoded.shape == (32, 16, 3)
    assert decoded[:12].mean() > 240
    assert decoded[-12:].mean() < 15


def test_large_jpeg_is_decoded_at_a_fraction_that_is_large_enough():
    data = encode(Image.new("RGB", (512, 512), "red"), "JPEG")
    side = transforms.decode(data, "", 32).width
    assert 64 <= side < 512


@pytest.mark.parametrize("data", [b"", b"no picture", encode(Image.new("RGB", (64, 64)))[:60]])
def test_broken_picture_names_the_record(data):
    with pytest.raises(UsageError, match="record 7 does not decode"):
        decode(data)


def test_to_square_takes_the_centre():
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, 4:8] = 255
    squared = transforms.to_square(Image.fromarray(picture), 4)
    assert (np.asarray(squared) == 255).all()


def test_to_square_is_antialiased():
    checker = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    small = np.asarray(transforms.to_square(Image.fromarray(checker).convert("RGB"), 16))
    assert np.abs(small.astype(int) - 127).max() <= 8


def test_random_crop_is_a_part_and_reaches_every_place():
    image, rng = Image.fromarray(gradient(6)), np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        crop = transforms.random_crop(image, 4, rng)
        left, top, _ = map(int, crop[0, 0])
        np.testing.assert_array_equal(crop, gradient(6)[top : top + 4, left : left + 4])
        corners.add((left, top))
    assert len(corners) == 9


def test_crop_pair_is_aligned():
    large, small = Image.fromarray(gradient(32)), Image.fromarray(gradient(8))
    rng, corners = np.random.default_rng(0), set()
    for _ in range(300):
        crop, low_res = transforms.random_crop_pair(large, small, 16, rng)
        assert crop.shape == (16, 16, 3) and low_res.shape == (4, 4, 3)
        np.testing.assert_array_equal(crop[::4, ::4, :2], 4 * low_res[..., :2])
        corners.add(tuple(low_res[0, 0]))
    assert len(corners) == 25


def test_crop_of_the_whole_side_is_the_whole_picture():
    large, small = Image.fromarray(gradient(32)), Image.fromarray(gradient(8))
    crop, low_res = transforms.random_crop_pair(large, small, 32, np.random.default_rng(0))
    np.testing.assert_array_equal(crop, gradient(32))
    np.testing.assert_array_equal(low_res, gradient(8))
