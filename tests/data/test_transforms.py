"""Decoding and cropping against pictures whose pixels are known."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngImageFile

from imagen_jax.data import transforms
from imagen_jax.data.records import BrokenRecord


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


def with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """The TIFF with another value of a tag."""
    data = bytearray(tiff)
    (start,) = struct.unpack_from("<I", data, 4)
    for entry in range(start + 2, start + 2 + 12 * data[start], 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            data[entry + 8 : entry + 12] = struct.pack("<I", value)
    return bytes(data)


@pytest.mark.parametrize(("mode", "colour"), [("LA", (100, 128)), ("RGBA", (100, 100, 100, 128))])
def test_colours_that_were_multiplied_by_their_alpha_are_on_white(mode, colour):
    """TIFF's ExtraSamples 1: associated alpha."""
    data = with_tag(encode(Image.new(mode, (4, 4), colour), "TIFF"), 338, 1)
    assert Image.open(io.BytesIO(data)).mode in ("La", "RGBA")
    np.testing.assert_allclose(decode(data), 100 + 255 - 128, atol=1)


def test_sixteen_bit_grey_may_have_a_transparent_value():
    grey = Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16))
    png = encode(grey)
    transparent = png[:33] + chunk(b"tRNS", struct.pack(">H", 0)) + png[33:]
    assert decode(transparent)[0, :, 0].tolist() == [255, 128, 255]


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_tiffs_of_either_byte_order_are_scaled(order):
    pixels = np.array([[0, 0x8000, 0xFFFF]], order)
    image = Image.frombytes("I;16" if order == "<u2" else "I;16B", (3, 1), pixels.tobytes())
    assert decode(encode(image, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "RGBX",
         "RGBa", "La", "I;16", "I;16B", "I;16L")  # fmt: skip


@pytest.mark.parametrize("profile", [None, b"no profile"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow_is_a_picture_or_a_broken_record(mode, profile, monkeypatch):
    image = Image.new(mode, (4, 4))
    image.info["icc_profile"] = profile
    monkeypatch.setattr(transforms, "opened", lambda data, name: image)
    if mode in ("I", "F"):
        with pytest.raises(BrokenRecord, match=f"picture undecodable .mode {mode}"):
            decode(b"")
    else:
        assert decode(b"").shape == (4, 4, 3)


def profile_with(**primaries: tuple[float, float, float]) -> bytes:
    """sRGB's profile with other columns, in XYZ: rXYZ, gXYZ, bXYZ."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(struct.unpack_from(">I", data, 128)[0]):
        tag, start, _ = struct.unpack_from(">4sII", data, 132 + 12 * number)
        if tag.decode() in primaries:
            fixed = [round(x * 65536) for x in primaries[tag.decode()]]
            struct.pack_into(">3i", data, start + 8, *fixed)
    return bytes(data)


P3 = profile_with(
    rXYZ=(0.5151, 0.2412, -0.0011), gXYZ=(0.2920, 0.6922, 0.0419), bXYZ=(0.1571, 0.0666, 0.7841)
)
"""Display P3, which phones write."""
SRGB = profile_with()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_colours_of_a_profile_become_srgb(kind):
    data = encode(Image.new("RGB", (16, 16), (155, 120, 90)), kind, icc_profile=P3)
    np.testing.assert_allclose(decode(data)[8, 8], (162, 118, 85), atol=4)
    same = encode(Image.new("RGB", (16, 16), (155, 120, 90)), kind, icc_profile=SRGB)
    plain = encode(Image.new("RGB", (16, 16), (155, 120, 90)), kind)
    np.testing.assert_array_equal(decode(same), decode(plain))


def test_transparent_and_palette_pictures_have_profiles_too():
    image = Image.new("RGBA", (2, 1), (155, 120, 90, 255))
    image.putpixel((1, 0), (155, 120, 90, 0))
    decoded = decode(encode(image, icc_profile=P3))
    np.testing.assert_allclose(decoded[0], [(162, 118, 85), (255, 255, 255)], atol=1)
    palette = image.convert("RGB").quantize(2)
    decoded = decode(encode(palette, icc_profile=P3))
    np.testing.assert_allclose(decoded[0, 0], (162, 118, 85), atol=2)


def test_grey_has_a_profile_of_its_own_kind():
    """Linear light of one half is 188 in sRGB; a profile of colours says nothing of grey."""
    header = bytearray(SRGB[:128])
    header[16:20], header[20:24] = b"GRAY", b"XYZ "
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    table = struct.pack(">I4sII4sII", 2, b"kTRC", 156, 12, b"wtpt", 168, 20)
    profile = bytearray(bytes(header) + table + curve + white)
    struct.pack_into(">I", profile, 0, len(profile))
    grey = Image.new("L", (4, 4), 128)
    np.testing.assert_allclose(decode(encode(grey, icc_profile=bytes(profile))), 188, atol=1)
    np.testing.assert_array_equal(decode(encode(grey, icc_profile=P3)), 128)


def test_a_profile_that_is_damaged_says_nothing_and_breaks_nothing():
    rng, picture = np.random.default_rng(0), Image.new("RGB", (4, 4), (155, 120, 90))
    for length in (0, 1, 100, 128, 132, 200, len(P3) - 1):
        assert decode(encode(picture, icc_profile=P3[:length])).shape == (4, 4, 3)
    for _ in range(200):
        damaged = bytearray(P3)
        for place in rng.integers(len(damaged), size=4):
            damaged[place] = int(rng.integers(256))
        assert decode(encode(picture, icc_profile=bytes(damaged))).shape == (4, 4, 3)


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


def noise(side: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def zeros(width: int, height: int) -> bytes:
    """A PNG whose pixels, all zero, take a thousandth of their space."""
    rows = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND")


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def text_bomb() -> bytes:
    """A PNG whose text takes 100 MB and whose file takes 100 kB."""
    text = b"Comment\0\0" + zlib.compress(bytes(10**8), 9)
    png = encode(Image.new("RGB", (4, 4)))
    return png[:33] + chunk(b"zTXt", text) + png[33:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "picture undecodable"),
        (b"no picture", "picture undecodable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "picture undecodable"),
        (encode(noise(64))[:6000], "picture truncated"),
        (encode(noise(64), "JPEG")[:900], "picture truncated"),
        (encode(noise(64), "GIF")[:3000], "picture truncated"),
        (encode(noise(64), "WEBP")[:900], "picture undecodable"),
        (encode(noise(64), "TIFF", compression="tiff_deflate")[:3000], "picture undecodable"),
        (encode(Image.new("RGB", (64, 64)))[:40], "picture undecodable"),
        (zeros(20_000, 20_000), "picture too large"),
        (zeros(7_100, 7_100), "picture too large"),
        (encode(Image.new("L", (7_100, 7_100)), "TIFF"), "picture too large"),
        (text_bomb(), "picture undecodable"),
        (encode(Image.new("F", (4, 4)), "TIFF"), "picture undecodable"),
        (encode(Image.new("I", (4, 4)), "TIFF"), "picture undecodable"),
    ],
    ids=[
        "nothing", "text", "postscript", "png", "jpeg", "gif", "webp", "tiff", "header", "bomb",
        "large png", "large tiff", "text bomb", "float", "int32",
    ],
)  # fmt: skip
def test_broken_pictures_are_named_with_their_reason(data, reason):
    with pytest.raises(BrokenRecord, match=f"record 7: {reason}") as raised:
        decode(data)
    assert raised.value.reason == reason and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_bytes_that_were_changed_anywhere_break_nothing_but_their_record(kind):
    """Whatever Pillow makes of them: a picture, or a record that is named."""
    whole, rng = encode(noise(24), kind), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(len(damaged), size=4):
            damaged[place] = int(rng.integers(256))
        try:
            assert decode(bytes(damaged)).shape[2] == 3
        except BrokenRecord as error:
            assert error.reason.startswith("picture")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "lime")]
    decoded = decode(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    np.testing.assert_allclose(decoded, np.broadcast_to((255, 0, 0), (4, 4, 3)), atol=4)


def test_a_jpeg_of_four_inks_has_its_colours():
    """As Photoshop writes it, the inks are inverted; Pillow's own writer does as Photoshop."""
    inks = Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK")
    np.testing.assert_allclose(decode(encode(inks, "JPEG"))[8, 8], (200, 30, 60), atol=6)


def test_sixteen_bits_a_channel_are_scaled():
    """A PNG of 48 bits a pixel, which Pillow cannot write."""
    row = b"\0" + struct.pack(">6H", 0, 0x8000, 0xFFFF, 0xFFFF, 0x0100, 0)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row))
    assert decode(data + chunk(b"IEND")).tolist() == [[[0, 128, 255], [255, 1, 0]]]


def test_palette_with_alpha_for_every_colour_is_on_white():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30] * 3)
    image.putdata([0, 1, 2])
    decoded = decode(encode(image, transparency=bytes([0, 255, 128])))
    np.testing.assert_allclose(decoded[0], [(255, 255, 255), (10, 20, 30), (132, 137, 142)], atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_as_pillow_turns_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(gradient(8)[:, :6])
    data = encode(picture, "PNG", exif=exif)
    oracle = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data), np.asarray(oracle))


def test_exif_that_is_damaged_says_nothing():
    data = encode(Image.new("RGB", (4, 2), "red"), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\xff")
    assert decode(data).shape == (2, 4, 3)


def test_the_size_is_told_from_the_header():
    data = encode(noise(64), "JPEG")
    assert transforms.size_of(data[:700], "a") == (64, 64)
    assert transforms.size_of(zeros(20_000, 9), "a") == (20_000, 9)
    with pytest.raises(BrokenRecord, match="a: picture undecodable"):
        transforms.size_of(b"no picture", "a")
    with pytest.raises(BrokenRecord, match="a: picture too large"):
        transforms.size_of(zeros(20_000, 20_000), "a")


@pytest.mark.parametrize("orientation", range(9))
def test_the_size_is_that_of_the_upright_picture(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encode(Image.fromarray(gradient(8)[:, :6]), kind, exif=exif)
        height, width, _ = decode(data).shape
        assert transforms.size_of(data, "a") == (width, height), kind


def test_the_size_of_a_png_is_told_without_decoding_it(monkeypatch):
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("It was decoded."))
    assert transforms.size_of(zeros(20, 9), "a") == (20, 9)


def test_cover_takes_the_centre():
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, 4:8] = 255
    for turned in (picture, picture.transpose(1, 0, 2)):
        squared = transforms.cover(Image.fromarray(turned), (4, 4))
        assert (np.asarray(squared) == 255).all()


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (24, 8), (10, 14), (1, 40)])
@pytest.mark.parametrize("of", [(64, 64), (60, 45), (33, 97)])
def test_cover_enlarges_both_sides_alike_and_leaves_no_more_out_than_it_must(of, size):
    """Of a ramp of 2 a pixel: how steep it is says by how much each side was resized."""
    rows, columns = np.mgrid[: of[0], : of[1]]
    ramps = 2 * np.stack([rows, columns, rows], -1).astype(np.uint8)
    covered = np.asarray(transforms.cover(Image.fromarray(ramps), size)).astype(float) / 2
    assert covered.shape[:2] == size
    factor = min(of[0] / size[0], of[1] / size[1])
    for axis in (0, 1):
        line = covered[..., axis].mean(1 - axis)
        assert line.mean() == pytest.approx((of[axis] - 1) / 2, abs=0.3)
        if len(line) > 4:
            inner = line[2:-2]
            assert np.diff(inner).mean() == pytest.approx(factor, abs=0.6 / (len(inner) - 1))


def test_cover_of_a_square_is_the_centre_square_to_the_byte():
    for height, width in ((37, 64), (64, 37), (33, 34), (8, 8)):
        picture = Image.fromarray(np.asarray(noise(64))[:height, :width])
        left, top = ((extent - min(height, width)) / 2 for extent in (width, height))
        box = (left, top, left + min(height, width), top + min(height, width))
        wanted = picture.resize((8, 8), Image.Resampling.BICUBIC, box=box)
        np.testing.assert_array_equal(transforms.cover(picture, (8, 8)), np.asarray(wanted))


def test_cover_is_antialiased():
    checker = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    small = np.asarray(transforms.cover(Image.fromarray(checker).convert("RGB"), (16, 16)))
    assert np.abs(small.astype(int) - 127).max() <= 8


def test_random_crop_is_a_part_and_reaches_every_place():
    image, rng = Image.fromarray(gradient(6)), np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        crop = transforms.random_crop({"image": image}, (4, 4), rng)["image"]
        left, top, _ = map(int, crop[0, 0])
        np.testing.assert_array_equal(crop, gradient(6)[top : top + 4, left : left + 4])
        corners.add((left, top))
    assert len(corners) == 9


def test_crops_of_two_sizes_are_aligned():
    large, small = Image.fromarray(gradient(32)), Image.fromarray(gradient(8))
    rng, corners = np.random.default_rng(0), set()
    for _ in range(300):
        crop, low_res = transforms.random_crop({"a": large, "b": small}, (16, 16), rng).values()
        assert crop.shape == (16, 16, 3) and low_res.shape == (4, 4, 3)
        np.testing.assert_array_equal(crop[::4, ::4, :2], 4 * low_res[..., :2])
        corners.add(tuple(low_res[0, 0]))
    assert len(corners) == 25


def test_crop_of_the_whole_side_is_the_whole_picture():
    large, small = Image.fromarray(gradient(32)), Image.fromarray(gradient(8))
    pictures = {"a": large, "b": small}
    crop, low_res = transforms.random_crop(pictures, (32, 32), np.random.default_rng(0)).values()
    np.testing.assert_array_equal(crop, gradient(32))
    np.testing.assert_array_equal(low_res, gradient(8))
