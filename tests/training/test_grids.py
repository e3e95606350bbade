"""The sheet of pictures that a run paints."""

import jax
import tiny

from imagen_jax.data.sources import open_source
from imagen_jax.stage import build_networks
from imagen_jax.training.captions import load_caption_reader
from imagen_jax.training.grids import SampleGrid


def test_its_pictures_come_from_the_source_that_the_run_has_open(tmp_path):
    config = tiny.super_resolution(data={"source": "folder:nowhere"})
    source = open_source(tiny.folder(tmp_path / "pictures"))
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    read = load_caption_reader(config)
    grid = SampleGrid(config, build_networks(config), read, source, everywhere)
    assert grid._batch["low_res"].shape == (16, 8, 8, 3)
