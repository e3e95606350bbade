"""Opens the source of captioned pictures that a configuration names."""

import contextlib
import warnings

from imagen_jax.config import ConditionsConfig, DataConfig
from imagen_jax.config.data import ARRAYRECORD, FOLDER, WEBDATASET, split_prefix
from imagen_jax.data.arrayrecord_source import ArrayRecordSource
from imagen_jax.data.filters import FileSource, Selected, forget, select
from imagen_jax.data.folder_source import FolderSource
from imagen_jax.data.order import Bucketed, Mixture
from imagen_jax.data.places import MISSING, UNREADABLE
from imagen_jax.data.records import Source
from imagen_jax.data.tfds_source import TfdsSource
from imagen_jax.data.webdataset_source import WebDatasetSource
from imagen_jax.errors import UsageError

_KINDS = {
    FOLDER: FolderSource,
    WEBDATASET: WebDatasetSource,
    ARRAYRECORD: ArrayRecordSource,
}


def open_source(
    config: DataConfig,
    low_resolution: int | None = None,
    conditions: ConditionsConfig = ConditionsConfig(),  # noqa: B008
) -> Source:
    """The records of `config.source` or `config.mixture` that fulfil `config.filters`.

    Data sets of tfds are built on first use, and tar shards indexed. For `config.sizes` the sizes
    of all pictures are read once; those that have none are left out.

    Args:
        config: of the data.
        low_resolution: side of the stage's low-resolution picture, None for a base stage.
        conditions: what the stage is told; records bring captions and pictures as it says.

    Raises:
        UsageError: there is no such source or split, it holds no captioned pictures or none that
            fulfil the filters, or too much of it is broken.
    """
    selected = [
        _select(share.source, config, low_resolution, conditions) for share in config.shares
    ]
    for condition in config.conditions:
        without = [
            share.source
            for share, part in zip(config.shares, selected, strict=True)
            if condition in part.unknown
        ]
        if len(without) == len(selected):
            raise UsageError(f"data.filters has '{condition}'; no record has that number.")
        for source in without:
            warnings.warn(f"no record of {source} has the number of {condition}", stacklevel=2)
    parts, weights = [part.source for part in selected], [share.weight for share in config.shares]
    if config.sizes:
        return Bucketed(parts, weights, config.sizes, [part.ratios for part in selected])
    return parts[0] if len(parts) == 1 else Mixture(parts, weights)


def _select(
    name: str, config: DataConfig, low_resolution: int | None, conditions: ConditionsConfig
) -> Selected:
    """What of one source is trained on."""
    source = _open(name, config, low_resolution, conditions)
    total = len(source) + source.left_out.total()
    told = (conditions.text, *(picture.name for picture in conditions.shown))
    measures = bool(config.conditions or config.sizes)
    try:
        selected = select(source, config.conditions, with_ratios=bool(config.sizes), told=told)
        _report(source, total, config.max_broken_share)
    except UsageError:
        # The next try reads again what perhaps a disk did not give.
        if measures and not {MISSING, UNREADABLE}.isdisjoint(source.left_out.counts):
            with contextlib.suppress(OSError):
                forget(source)
        raise
    return selected


def _open(
    name: str, config: DataConfig, low_resolution: int | None, conditions: ConditionsConfig
) -> FileSource:
    prefix, place = split_prefix(name)
    if prefix and not place:
        raise UsageError(f"data.source is {name!r}; name a directory behind the colon.")
    if prefix:
        return _KINDS[prefix](place, config.data_dir, conditions)
    return TfdsSource(name, config.split, config.data_dir, low_resolution, conditions)


def _report(source: FileSource, total: int, max_broken_share: float) -> None:
    """Says what of a source is left out; raises a UsageError if that is too much."""
    left_out = source.left_out.total()
    said = f"{left_out} of {total} records of {source.name} cannot be used: {source.left_out}"
    if left_out > max_broken_share * total:
        raise UsageError(f"{said}; data.max_broken_share is {max_broken_share:g}.")
    if left_out:
        warnings.warn(said, stacklevel=4)
