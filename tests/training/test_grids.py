"""The sheet of pictures that a run paints."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError
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


@pytest.mark.filterwarnings("ignore:left out")
def test_a_sheet_of_broken_records_alone_is_refused(tmp_path):
    data = tiny.folder(tmp_path / "pictures")
    for path in (tmp_path / "pictures").glob("*.png"):
        path.write_bytes(b"no picture")
    config = tiny.super_resolution(data=dataclasses.replace(data, max_broken_share=1.0))
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    arguments = load_caption_reader(config), open_source(config.data), everywhere
    with pytest.raises(UsageError, match="no sheet of samples: the 16 records .* are broken"):
        SampleGrid(config, build_networks(config), *arguments)


def test_the_drift_is_the_distance_of_mean_colours():
    """Not of pixels: what is sharper or turned round has the same mean colour."""
    low_res = np.random.default_rng(0).integers(40, 200, (2, 4, 4, 3)).astype(np.uint8)
    pictures = low_res.repeat(2, 1).repeat(2, 2)[:, ::-1]
    assert colour_drift(pictures, low_res) == 0
    shifted = pictures.copy()
    shifted[0, ..., 0] += 30  # One of two pictures, one of three channels.
    shifted[1, ..., 2] -= 12
    assert abs(colour_drift(shifted, low_res) - (30 + 12) / 6) < 1e-9
