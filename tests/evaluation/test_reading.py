"""Resizers against their kernels, sample by sample, and against PyTorch where it is installed."""

import dataclasses
from typing import get_args

import numpy as np
import pytest

from imagen_jax.config.choices import Recipe
from imagen_jax.errors import UsageError
from imagen_jax.evaluation.reading import CROPS, RECIPES, RESIZERS, Reading, bilinear_weights

PICTURE = np.random.default_rng(0).integers(0, 256, (13, 9, 3)).astype(np.uint8)


def cubic(x):
    """Keys 1981 with a = -1/2, Pillow's."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def filtered(samples, new_size, kernel, support):
    """As wide as the new samples lie apart; cut at the ends, and divided by its sum."""
    size, result = len(samples), []
    scale = max(size / new_size, 1.0)
    for i in range(new_size):
        middle = (i + 0.5) * size / new_size
        places = [j for j in range(size) if abs(j + 0.5 - middle) < support * scale]
        weights = [kernel((j + 0.5 - middle) / scale) for j in places]
        total = sum(w * samples[j] for w, j in zip(weights, places, strict=True))
        result.append(total / sum(weights))
    return np.stack(result)


def in_both_directions(picture, side, *kernel):
    rows = filtered(picture.astype(float).swapaxes(0, 1), side, *kernel).swapaxes(0, 1)
    return filtered(rows, side, *kernel)


@pytest.mark.parametrize("side", [5, 11, 20])
def test_bicubic_on_floats_is_the_kernel_and_nothing_is_rounded(side):
    resized = Reading("whole", "bicubic-float", side)(PICTURE)
    expected = in_both_directions(PICTURE, side, cubic, 2.0).clip(0, 255)
    assert resized.dtype == np.float32 and resized.shape == (side, side, 3)
    np.testing.assert_allclose(resized, expected, atol=1e-3)
    assert np.abs(resized - resized.round()).max() > 0.1


@pytest.mark.parametrize("side", [5, 11, 20])
def test_bicubic_is_the_same_but_rounded(side):
    """Rounded after each direction, the first time by half at most, which the second widens."""
    pale = PICTURE // 2 + 60  # Nothing falls below 0 or rises above 255 between the two.
    resized = Reading("whole", "bicubic", side)(pale)
    np.testing.assert_array_equal(resized, resized.round())
    assert np.abs(resized - in_both_directions(pale, side, cubic, 2.0)).max() < 1.25


def test_box_of_a_whole_ratio_is_the_mean():
    picture = np.repeat(np.repeat(PICTURE[:4, :4], 3, axis=0), 3, axis=1)
    np.testing.assert_array_equal(Reading("whole", "box", 4)(picture), PICTURE[:4, :4])


@pytest.mark.parametrize("sizes", [(13, 5), (9, 20), (4, 4), (1, 3)])
def test_bilinear_samples_lie_between_two_neighbours(sizes):
    size, new_size = sizes
    place = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    expected = [np.interp(place, np.arange(size), sample) for sample in np.eye(size)]
    np.testing.assert_allclose(bilinear_weights(size, new_size), np.transpose(expected), atol=1e-6)


@pytest.mark.parametrize("side", [5, 20])
def test_bilinear_is_pytorchs(side):
    torch = pytest.importorskip("torch")
    inputs = torch.from_numpy(PICTURE).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(inputs, (side, side), mode="bilinear")
    resized = Reading("whole", "bilinear", side)(PICTURE)
    np.testing.assert_allclose(resized, expected[0].permute(1, 2, 0), atol=1e-3)


def test_tensorflows_samples_lie_at_their_corners():
    """Of 2 pixels a row 4: at 0, 1/2, 1 and beyond the last, which is repeated."""
    picture = np.array([[[0] * 3, [128] * 3]] * 2, np.uint8)
    read = Reading("whole", "tensorflow", 4)(picture)
    np.testing.assert_allclose(read[0, :, 0], [0, 64, 128, 128], rtol=1e-6)


@pytest.mark.parametrize("recipe", ["torch-fidelity", "clean-fid", "imagen-fid30k"])
def test_inception_gets_what_other_tools_feed_it(recipe):
    """x / 128 - 1, where the one here makes x / 127.5 - 1; no other network's recipe is so."""
    reading = dataclasses.replace(RECIPES[recipe][1], side=9)
    np.testing.assert_allclose(reading(PICTURE[:9]) / 127.5 - 1, PICTURE[:9] / 128 - 1, atol=1e-6)
    scaled = {name for name, (_, reading) in RECIPES.items() if reading.over_128}
    assert scaled == {"torch-fidelity", "clean-fid", "imagen-fid30k"}
    assert reading.name.endswith("9 pixels, over 128")


@pytest.mark.parametrize("resizer", RESIZERS)
def test_a_picture_of_the_right_size_stays_as_it_is(resizer):
    square = PICTURE[:9]
    np.testing.assert_array_equal(Reading("whole", resizer, 9)(square), square)


@pytest.mark.parametrize("resizer", RESIZERS)
def test_one_colour_stays_one_colour(resizer):
    plain = np.full((7, 12, 3), (255, 0, 130), np.uint8)
    for side in (3, 30):
        resized = Reading("whole", resizer, side)(plain)
        expected = np.broadcast_to(plain[0, 0], resized.shape)
        np.testing.assert_allclose(resized, expected, atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
def test_the_centre_is_the_square_in_the_middle(turned):
    picture = PICTURE.swapaxes(0, 1) if turned else PICTURE
    expected = PICTURE[2:11].swapaxes(0, 1) if turned else PICTURE[2:11]
    np.testing.assert_array_equal(Reading("centre", "bilinear", 9)(picture), expected)


def test_the_name_says_all_that_is_chosen():
    names = {Reading(crop, resizer, 9).name for crop in CROPS for resizer in RESIZERS}
    assert len(names) == len(CROPS) * len(RESIZERS)
    assert Reading("whole", "bilinear", 299).name == "whole, bilinear, 299 pixels"


def test_larger_pictures_are_first_brought_to_the_size_of_those_that_were_painted():
    reading = Reading("whole", "bilinear", 20, first_side=6, first_resizer="bicubic")
    first = Reading("whole", "bicubic", 6)(PICTURE).astype(np.uint8)
    expected = Reading("whole", "bilinear", 20)(first)
    np.testing.assert_array_equal(reading(PICTURE), expected)
    np.testing.assert_array_equal(reading(first), expected)
    small = PICTURE[:5, :5]
    np.testing.assert_array_equal(reading(small), Reading("whole", "bilinear", 20)(small))
    assert reading.name == "whole, bicubic to 6, bilinear, 20 pixels"


def test_recipes_read_each_in_a_way_of_its_own():
    name, reading = RECIPES["imagen-fid30k"]
    assert name == "inception"
    assert (reading.crop, reading.first_side, reading.first_resizer) == ("centre", 256, "lanczos")
    assert len(set(RECIPES.values())) == len(RECIPES) == len(get_args(Recipe))


def test_unknown_names_are_refused(no_type_checks):
    with pytest.raises(UsageError, match="resizer is 'cubic'; it must be one of bilinear, "):
        Reading("whole", "cubic", 9)
    with pytest.raises(UsageError, match="crop is 'left'; it must be one of whole, centre"):
        Reading("left", "box", 9)
    with pytest.raises(UsageError, match="first_side is -1; it must lie between 0 and 16384"):
        Reading("whole", "box", 9, first_side=-1)
