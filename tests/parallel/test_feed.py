"""What the devices are fed, and when it is read."""

import numpy as np
import pytest

from imagen_jax.config import MeshConfig
from imagen_jax.parallel.feed import DeviceFeed
from imagen_jax.parallel.mesh import batch_sharding, make_mesh


def batch(number: int) -> dict[str, np.ndarray]:
    return {"token_ids": np.full((8, 3), number, np.int32)}


class Reader:
    """Batches 0, 1, 2 ...."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.read += 1
        return batch(self.read - 1)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


@pytest.mark.parametrize("ahead", [True, False])
def test_batches_come_in_order_whether_fetched_ahead_or_not(mesh, ahead):
    feed = DeviceFeed(Reader(), mesh)
    for number in range(4):
        array = next(feed)["token_ids"]
        np.testing.assert_array_equal(array, batch(number)["token_ids"])
        assert array.sharding == batch_sharding(mesh)
        if ahead:
            feed.fetch()


def test_what_was_fetched_is_there_without_reading(mesh):
    reader = Reader()
    feed = DeviceFeed(reader, mesh)
    feed.fetch()
    assert reader.read == 1
    next(feed)
    assert reader.read == 1
