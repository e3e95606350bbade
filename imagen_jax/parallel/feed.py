"""Feeds the devices: the next batch is sent while they work on this one."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from imagen_jax.parallel.mesh import global_batch


class DeviceFeed:
    """Batches of the host as global arrays, of which one is on the devices before it is asked for.

    Call `fetch` when a step has been started: reading and sending then take none of its time.
    """

    def __init__(self, reader: Iterator[dict[str, np.ndarray]], mesh: Mesh):
        """`reader`: of this process's rows of each batch, see `mesh.local_rows`."""
        self._reader, self._mesh = reader, mesh
        self._ahead: dict[str, jax.Array] | None = None

    def __next__(self) -> dict[str, jax.Array]:
        if self._ahead is None:
            self.fetch()
        batch, self._ahead = self._ahead, None
        return batch

    def fetch(self) -> None:
        """Reads the next batch and starts to send it."""
        self._ahead = global_batch(next(self._reader), self._mesh)
