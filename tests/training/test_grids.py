"""The sheet of pictures that a run paints."""

import jax
import numpy as np
import tiny

from imagen_jax.data.sources import open_source
from imagen_jax.networks import build_networks
from imagen_jax.training.grids import SampleGrid, colour_drift
from imagen_jax.training.text_inputs import load_caption_reader


def test_its_pictures_come_from_the_source_that_the_run_has_open(tmp_path):
    config = tiny.super_resolution(data={"source": "folder:nowhere"})
    source = open_source(tiny.folder(tmp_path / "pictures"))
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    read = load_caption_reader(config)
    grid = SampleGrid(config, build_networks(config), read, source, everywhere)
    assert grid._batch["low_res"].shape == (16, 8, 8, 3)


def test_the_drift_is_the_distance_of_mean_colours():
    """Not of pixels: what is sharper or turned round has the same mean colour."""
    low_res = np.random.default_rng(0).integers(40, 200, (2, 4, 4, 3)).astype(np.uint8)
    pictures = low_res.repeat(2, 1).repeat(2, 2)[:, ::-1]
    assert colour_drift(pictures, low_res) == 0
    shifted = pictures.copy()
    shifted[0, ..., 0] += 30  # One of two pictures, one of three channels.
    shifted[1, ..., 2] -= 12
    assert abs(colour_drift(shifted, low_res) - (30 + 12) / 6) < 1e-9
