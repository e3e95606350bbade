"""Mean and covariance of Inception's features as pytorch-fid keeps them: an .npz of mu and sigma.

Such a file says neither of how many pictures it is nor how they were read.
"""

import dataclasses
import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.config.choices import FeatureName, Recipe
from imagen_jax.errors import UsageError, reason
from imagen_jax.evaluation.moments import Moments, StatedMoments
from imagen_jax.evaluation.reading import RECIPES
from imagen_jax.models.inception import FEATURES
from imagen_jax.storage.files import replacing
from imagen_jax.storage.npy import read_npy

SUFFIX = ".npz"
_SHAPES = {"mu": (FEATURES,), "sigma": (FEATURES, FEATURES)}
_LARGEST = 2**27
"""Bytes of an array, in float64 and its header with much to spare."""
# An archive of an unknown compression or with a password is a RuntimeError, and an array of which
# only its header says how large it is a MemoryError.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class StatisticsFile:
    """A reference that others made.

    Attributes:
        about: what results say of it.
    """

    path: Path
    about: dict[str, Any]
    _moments: StatedMoments

    @property
    def network(self) -> FeatureName:
        return "inception"

    def moments(self) -> StatedMoments:
        return self._moments

    def account(self) -> dict[str, Any]:
        return self.about


def open_statistics(path: Path, recipe: Recipe) -> StatisticsFile:
    """The statistics in a file.

    Args:
        recipe: by which its pictures were read.

    Raises:
        UsageError: the recipe is of another network, or the file holds no such statistics.
    """
    network, reading = RECIPES[recipe]
    if network != "inception":
        raise UsageError(f"The recipe is {recipe!r}, of {network}; {path} is of inception.")
    try:
        data = path.read_bytes()
        mean, covariance = _arrays(data)
    except _UNREADABLE as error:
        raise UsageError(
            f"{path} holds no statistics as pytorch-fid writes them: {reason(error)}."
        ) from error
    about = {
        "name": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "recipe": recipe,
        "reading": dataclasses.asdict(reading),
        "width": FEATURES,
    }
    return StatisticsFile(path, about, StatedMoments(mean, covariance))


def _arrays(data: bytes) -> list[np.ndarray]:
    """mu and sigma; a ValueError or KeyError says what is wrong with them."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in _SHAPES:
            if archive.getinfo(f"{name}.npy").file_size > _LARGEST:
                raise ValueError(f"{name} is larger than of {FEATURES} features")
        found = [read_npy(archive.read(f"{name}.npy")) for name in _SHAPES]
    for (name, shape), array in zip(_SHAPES.items(), found, strict=True):
        if array.shape != shape or array.dtype.kind != "f":
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, not {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    if not np.allclose(found[1], found[1].T, rtol=1e-3, atol=1e-6):
        raise ValueError("sigma is not symmetric")
    return [array.astype(np.float64) for array in found]


def write_statistics(path: Path, moments: Moments) -> None:
    """Writes what pytorch-fid reads.

    Raises:
        UsageError: it cannot be written, and why.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, mu=moments.mean, sigma=moments.covariance)
