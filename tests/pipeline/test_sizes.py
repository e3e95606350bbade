"""The sizes that a cascade can paint."""

import itertools

import numpy as np
import pytest
import tiny

from imagen_jax.errors import UsageError
from imagen_jax.pipeline.sizes import base_divisor, parse_aspect, parse_size, stage_sizes

BASE = tiny.stage(
    resolution=64, unet={"channel_mult": (1, 1), "num_res_blocks": (1, 1), "patch_size": 4}
)
SR_FINE = tiny.super_resolution(low_resolution=64, resolution=256)
SR_DEEP = tiny.replace(
    tiny.super_resolution(low_resolution=64, resolution=128), unet={"patch_size": 16}
)


def test_the_divisor_is_that_of_all_networks():
    assert [c.unet.size_divisor for c in (BASE, SR_FINE, SR_DEEP)] == [8, 2, 32]
    assert base_divisor([BASE]) == 8
    assert base_divisor([BASE, SR_FINE]) == 8  # 4 x 8 is a multiple of 2.
    assert base_divisor([BASE, SR_DEEP]) == 16  # 2 x 16 is the least multiple of 32.


def test_a_size_is_taken_where_every_network_divides_it():
    for height, width in itertools.product(range(0, 40, 4), repeat=2):
        sides = [(BASE, height), (BASE, width), (SR_DEEP, 2 * height), (SR_DEEP, 2 * width)]
        if all(side and side % config.unet.size_divisor == 0 for config, side in sides):
            wanted = [(height, width), (2 * height, 2 * width)]
            assert stage_sizes([BASE, SR_DEEP], (height, width)) == wanted
        else:
            with pytest.raises(UsageError, match="must be a multiple of 16"):
                stage_sizes([BASE, SR_DEEP], (height, width))


def test_an_aspect_keeps_the_area_as_nearly_as_the_networks_divide():
    for ratio in np.linspace(0.3, 3, 28):
        [(height, width)] = stage_sizes([BASE], aspect=f"{ratio}:1")
        assert height % 8 == width % 8 == 0
        assert abs(width - 64 * ratio**0.5) <= 4 and abs(height - 64 / ratio**0.5) <= 4


def test_width_stands_first_in_an_aspect_and_height_in_a_size():
    assert parse_aspect("3:2") == 1.5 and parse_size("64x96") == (64, 96)
    assert stage_sizes([BASE, SR_FINE], aspect="4:1") == [(32, 128), (128, 512)]


@pytest.mark.parametrize(
    "text", ["", "64", "64x", "x64", "64x64x64", "-1x64", "6.4x64", "9" * 5000 + "x1"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="it must be a height and a width"):
        parse_size(text)


@pytest.mark.parametrize(
    "text", ["", "3", "3:", ":2", "3:0", "0:2", "-3:2", "inf:1", "nan:1", "1e999:1", "1:2:3", "a:b"]
)
def test_what_is_no_aspect_is_refused(text):
    with pytest.raises(UsageError, match="it must be a width and a height, both positive"):
        parse_aspect(text)


@pytest.mark.parametrize("size", [(64,), (64, 64, 64), 64, (64.5, 64), (None, 64), [(1, 2)] * 2])
def test_a_size_is_two_whole_numbers(size, no_type_checks):
    with pytest.raises(UsageError, match="two whole numbers"):
        stage_sizes([BASE], size)
