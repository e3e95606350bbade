"""Colours by name: OKLab against its published values, and vectors whose hue is turned."""

import io

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data import emoji_colours, emoji_vectors
from imagen_jax.data.emoji_colours import BACKGROUNDS, HUES, from_hex, name_of, to_oklab, to_rgb

APPLE, PANDA = "1f34e", "1f43c"


def test_oklab_has_its_published_values():
    """Ottosson's table of XYZ pairs has white at (1, 0, 0); sRGB red is from his own page."""
    np.testing.assert_allclose(to_oklab(from_hex("#ffffff")), [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(
        to_oklab(from_hex("#ff0000")), [0.62796, 0.22486, 0.12585], atol=1e-4
    )


def test_oklab_and_back_is_the_same_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 3)).astype(np.uint8)
    np.testing.assert_array_equal(to_rgb(to_oklab(pixels)), pixels)


def test_short_and_long_hexadecimal_colours():
    np.testing.assert_array_equal(from_hex("#1af"), [0x11, 0xAA, 0xFF])
    assert emoji_colours.to_hex(from_hex("#0b1C2d")) == "#0b1c2d"


@pytest.mark.parametrize("name", HUES)
def test_every_hue_has_its_own_name(name):
    assert name_of(np.tile(from_hex(HUES[name]), (5, 5, 1))) == name


def test_black_grey_and_white_have_no_say():
    greys = [from_hex(BACKGROUNDS[name]) for name in ("black", "grey", "white")]
    assert name_of(np.stack(greys * 10)) == ""
    assert name_of(np.stack([*greys * 10, from_hex(HUES["blue"])])) == "blue"


@pytest.mark.parametrize("style", emoji_vectors.STYLES)
@pytest.mark.parametrize("colour", HUES)
def test_a_turned_apple_is_drawn_in_the_colour_and_its_leaf_stays(style, colour):
    png = emoji_colours.draw(style, APPLE, colour, "", 64)
    drawn = np.asarray(Image.open(io.BytesIO(png)))
    plain = np.asarray(Image.open(io.BytesIO(emoji_vectors.draw(style, APPLE, 64))))
    assert name_of(drawn) == colour
    greenest = np.unravel_index(
        (2.0 * plain[..., 1] - plain[..., 0] - plain[..., 2]).argmax(), plain.shape[:2]
    )
    np.testing.assert_array_equal(drawn[greenest], plain[greenest])
    assert drawn[0, 0].tolist() == [255, 255, 255]


def test_what_has_no_main_colour_is_not_turned():
    assert emoji_colours.main_colour("noto", PANDA) is None
    assert emoji_colours.natural_colour("noto", PANDA) == ""
    assert emoji_colours.turned("noto", PANDA, "blue") is None


def test_the_artists_colour_is_left_alone_where_it_has_the_name():
    red = emoji_colours.turned("twemoji", APPLE, "red")
    assert red == emoji_vectors.vectors("twemoji")[APPLE]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_background_is_exactly_its_colour(background):
    png = emoji_colours.draw("noto", APPLE, "", background, 64)
    drawn = np.asarray(Image.open(io.BytesIO(png)))
    np.testing.assert_array_equal(drawn[0, 0], from_hex(BACKGROUNDS[background]))
