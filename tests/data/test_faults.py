"""What is done to low-resolution pictures in training, so that a stage learns to mend it."""

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.faults import with_faults

SIDE = 64


def rng():
    return np.random.default_rng(0)


def edge():
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, SIDE // 2 :] = 255
    return Image.fromarray(pixels)


def grey():
    return Image.new("RGB", (SIDE, SIDE), (128, 128, 128))


def test_no_faults_leave_the_picture_as_it_is():
    np.testing.assert_array_equal(with_faults(edge(), 0.0, 0.0, rng()), edge())


def test_an_edge_is_blurred_by_no_more_than_was_asked_for():
    """The blur is a Gaussian, so an edge's slope has its standard deviation."""
    draws = rng()
    widths = []
    for _ in range(50):
        row = np.asarray(with_faults(edge(), 2.0, 0.0, draws))[SIDE // 2, :, 0] / 255
        slope = np.diff(row)
        places = np.arange(len(slope))
        mean = (slope * places).sum()
        widths.append(np.sqrt((slope * (places - mean) ** 2).sum()))
    assert max(widths) < 2.1 and min(widths) < 0.5
    assert 0.7 < np.mean(widths) < 1.3


def test_blotches_are_smooth_and_as_strong_as_was_asked_for():
    draws = rng()
    added = [
        np.asarray(with_faults(grey(), 0.0, 20.0, draws)).astype(float) - 128 for _ in range(200)
    ]
    deviations = [np.sqrt((one**2).mean()) for one in added]
    assert np.mean(deviations) == pytest.approx(10, rel=0.3)
    assert abs(np.mean(added)) < 1
    neighbours = [np.abs(np.diff(one, axis=1)).mean() for one in added]
    assert np.mean(neighbours) < np.mean(deviations) / 2


def test_some_blotches_move_all_pixels_alike():
    """One cell is a drift of the whole picture's colour."""
    draws = rng()
    pictures = [np.asarray(with_faults(grey(), 0.0, 20.0, draws)) for _ in range(50)]
    alike = [picture.reshape(-1, 3).std(0).max() == 0 for picture in pictures]
    assert 0 < sum(alike) < 25


def test_the_same_draws_give_the_same_picture():
    first, second = (with_faults(edge(), 1.5, 8.0, rng()) for _ in range(2))
    np.testing.assert_array_equal(first, second)
