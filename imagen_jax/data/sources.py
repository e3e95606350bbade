"""Opens the source of captioned pictures that a configuration names."""

import warnings

from imagen_jax.config import DataConfig
from imagen_jax.config.data import ARRAYRECORD, FOLDER, WEBDATASET, split_prefix
from imagen_jax.data.arrayrecord_source import ArrayRecordSource
from imagen_jax.data.filters import FileSource, select
from imagen_jax.data.folder_source import FolderSource
from imagen_jax.data.order import Mixture
from imagen_jax.data.records import Source
from imagen_jax.data.tfds_source import TfdsSource
from imagen_jax.data.webdataset_source import WebDatasetSource
from imagen_jax.errors import UsageError

_KINDS = {
    FOLDER: FolderSource,
    WEBDATASET: WebDatasetSource,
    ARRAYRECORD: ArrayRecordSource,
}


def open_source(config: DataConfig, low_resolution: int | None = None) -> Source:
    """The records of `config.source` or `config.mixture` that fulfil `config.filters`.

    Data sets of tfds are built on first use, and tar shards indexed.

    Args:
        config: of the data.
        low_resolution: side of the stage's low-resolution picture, None for a base stage.

    Raises:
        UsageError: there is no such source or split, it holds no captioned pictures or none that
            fulfil the filters, or too much of it is broken.
    """
    parts, unknown = [], []
    for share in config.shares:
        source = _open(share.source, config, low_resolution)
        total = len(source) + source.left_out.total()
        part, not_there = select(source, config.conditions)
        _report(source, total, config.max_broken_share)
        parts.append(part)
        unknown.append(not_there)
    for condition in config.conditions:
        without = [share.source for share, lacks in zip(config.shares, unknown, strict=True)
                   if condition in lacks]  # fmt: skip
        if len(without) == len(parts):
            raise UsageError(f"data.filters has '{condition}'; no record has that number.")
        for source in without:
            warnings.warn(f"no record of {source} has the number of {condition}", stacklevel=2)
    if len(parts) == 1:
        return parts[0]
    return Mixture(parts, [share.weight for share in config.shares])


def _open(name: str, config: DataConfig, low_resolution: int | None) -> FileSource:
    prefix, place = split_prefix(name)
    if prefix and not place:
        raise UsageError(f"data.source is {name!r}; name a directory behind the colon.")
    if prefix:
        return _KINDS[prefix](place, config.data_dir)
    return TfdsSource(name, config.split, config.data_dir, low_resolution)


def _report(source: FileSource, total: int, max_broken_share: float) -> None:
    """Says what of a source is left out; raises a UsageError if that is too much."""
    left_out = source.left_out.total()
    said = f"{left_out} of {total} records of {source.name} cannot be used: {source.left_out}"
    if left_out > max_broken_share * total:
        raise UsageError(f"{said}; data.max_broken_share is {max_broken_share:g}.")
    if left_out:
        warnings.warn(said, stacklevel=3)
