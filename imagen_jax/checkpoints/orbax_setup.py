"""Orbax, set up for this package: quiet, quick with small arrays, and content with any path."""

import glob
import os
from collections.abc import Callable, Iterator

import jax
import orbax.checkpoint as ocp
from etils import epath

from imagen_jax.checkpoints.orbax_errors import keep_quiet

Glob = Callable[[epath.Path, str], Iterator[epath.Path]]


def set_up() -> None:
    """Once, for the whole process."""
    keep_quiet()
    epath.gpath.PosixGPath.glob = _below(epath.gpath.PosixGPath.glob)
    # Of arrays that every device holds, Orbax has each device save a part: another program for each
    # shape, on which it waits, and of small arrays (norms, biases) there are hundreds.
    ocp.type_handlers.register_type_handler(
        jax.Array,
        ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20),
        override=True,
    )


def _below(anywhere: Glob) -> Glob:
    """A `Path.glob` that takes only its argument for a pattern, and not the path before it too.

    So Orbax finds the parts of a checkpoint also below a directory called "run [2]".
    """

    def call(path: epath.Path, pattern: str) -> Iterator[epath.Path]:
        if "://" in os.fspath(path):
            return anywhere(path, pattern)
        return (path / name for name in glob.iglob(pattern, root_dir=path))

    return call
