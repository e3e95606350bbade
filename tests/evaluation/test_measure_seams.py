"""The script that looks for seams: what it takes for one, and what not."""

import numpy as np
import pytest
from scripts import tool


@pytest.fixture(scope="module")
def seams():
    return tool("measure_seams")


@pytest.mark.parametrize("apart", [1, 2])
@pytest.mark.parametrize("shape", [0, 1])
def test_a_step_at_the_border_is_found_and_an_even_slope_is_none(seams, apart, shape):
    repaint = seams.masks(64)[shape]
    assert repaint.any() and not repaint.all()
    of = seams.pairs(repaint, apart)
    step = np.where(repaint, 90, 50)[:, :, None].repeat(3, 2)
    assert seams.differences(step, apart, of) == (40, 0)
    slope = 2 * np.indices((64, 64)).sum(0)[:, :, None].repeat(3, 2)
    assert seams.differences(slope, apart, of) == (2 * apart, 2 * apart)


def test_what_lies_far_from_the_border_does_not_count(seams):
    repaint = np.zeros((64, 64), bool)
    repaint[:, :20] = True
    picture = np.zeros((64, 64, 3))
    picture[:, 40] = 255
    assert seams.differences(picture, 1, seams.pairs(repaint, 1)) == (0, 0)
