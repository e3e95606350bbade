"""Background, colour and sharpness of pictures whose looks are known."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data import emoji_colours, emoji_vectors
from imagen_jax.evaluation import looks

SIDE = 256
RED, BLUE = (229, 57, 53), (30, 136, 229)


def half_plane(sigma: float, degrees: float, low=(255, 255, 255), high=RED) -> np.ndarray:
    """An edge through the middle at this angle, blurred by a Gaussian, as a picture."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.3
    angle = math.radians(degrees)
    distance = rows * math.sin(angle) + columns * math.cos(angle)
    share = np.vectorize(math.erf)(distance / (sigma * math.sqrt(2))) / 2 + 0.5
    mixed = np.array(low) + share[..., None] * (np.array(high) - np.array(low))
    picture = mixed.round().astype(np.uint8)
    picture[0], picture[-1], picture[:, 0], picture[:, -1] = (low,) * 4  # A border to tell by.
    return picture


def square(background, colour) -> np.ndarray:
    picture = np.full((64, 64, 3), background, np.uint8)
    picture[16:48, 16:48] = colour
    return picture


@pytest.mark.parametrize("sigma, within", [(1.0, 0.12), (2.0, 0.04), (4.0, 0.03)])
@pytest.mark.parametrize("degrees", [0, 30, 45, 100])
def test_edge_rise_of_a_blurred_step_is_the_gaussians(sigma, within, degrees):
    rise = looks.edge_rise(half_plane(sigma, degrees))
    assert rise == pytest.approx(2.563 * sigma, rel=within)


def test_edge_rise_is_the_same_in_other_colours():
    on_white, on_blue = half_plane(2.0, 30), half_plane(2.0, 30, low=BLUE, high=(255, 255, 255))
    assert looks.edge_rise(on_white) == pytest.approx(looks.edge_rise(on_blue), rel=0.03)


def test_edges_within_the_object_are_not_measured():
    picture = half_plane(4.0, 0)
    picture[:, 200:204] = 0  # A sharp black line on red.
    assert looks.edge_rise(picture) == pytest.approx(2.563 * 4.0, rel=0.04)


def test_a_picture_without_an_object_has_no_edge():
    assert math.isnan(looks.edge_rise(square((255, 255, 255), (255, 255, 255))))


def test_vectors_are_sharp_and_pictures_enlarged_from_64_pixels_are_not():
    sharp = Image.open(io.BytesIO(emoji_vectors.draw("noto", "1f34e", 1024)))
    soft = sharp.resize((64, 64), Image.Resampling.BOX).resize((1024, 1024))
    assert looks.edge_rise(np.asarray(sharp)) < 2
    assert looks.edge_rise(np.asarray(soft)) > 10


def test_background_is_the_border_and_nothing_else():
    picture = square((250, 251, 252), RED)
    picture[:8, :8] = 0  # A corner is too little to change the median.
    assert looks.background(picture).tolist() == [250, 251, 252]


@pytest.mark.parametrize("darkest, on_white", [(255, True), (252, True), (251, False)])
def test_white_is_white_to_within_three(darkest, on_white):
    assert looks.is_on_white(square((255, 255, darkest), RED)) is on_white


@pytest.mark.parametrize("name", emoji_colours.BACKGROUNDS)
def test_backgrounds_are_named(name):
    colour = emoji_colours.from_hex(emoji_colours.BACKGROUNDS[name])
    assert looks.background_name(square(colour, (128, 0, 0))) == name


@pytest.mark.parametrize("name", emoji_colours.HUES)
def test_objects_are_named_whatever_lies_behind(name):
    colour = emoji_colours.from_hex(emoji_colours.HUES[name])
    for behind in ("white", "grey", "red" if name != "red" else "blue"):
        ground = emoji_colours.from_hex(emoji_colours.BACKGROUNDS[behind])
        assert looks.object_colour(square(ground, colour)) == name


def test_nothing_has_no_colour():
    assert looks.object_colour(square((255, 255, 255), (250, 250, 250))) == ""


def test_drift_is_the_change_of_the_mean():
    small = np.stack([square((200, 200, 200), RED), square((200, 200, 200), BLUE)])
    large = np.repeat(np.repeat(small, 4, 1), 4, 2)
    assert looks.colour_drift(small, large) == pytest.approx(0, abs=1e-9)
    large[0] += 6  # Of one of two pictures, in all channels.
    assert looks.colour_drift(small, large) == pytest.approx(3)
