"""Opens the source of captioned pictures that a configuration names."""

from pathlib import Path

from imagen_jax.config import FOLDER_PREFIX, DataConfig
from imagen_jax.data.folder_source import FolderSource
from imagen_jax.data.records import Source
from imagen_jax.data.tfds_source import TfdsSource


def open_source(config: DataConfig, low_resolution: int | None = None) -> Source:
    """The records of `config.source`; tfds data sets are built on first use.

    Args:
        config: `folder:DIR` or a tfds name, with split and data_dir.
        low_resolution: side of the stage's low-resolution picture, None for a base stage.

    Raises:
        UsageError: there is no such source or split, or it holds no captioned pictures.
    """
    if config.source.startswith(FOLDER_PREFIX):
        return FolderSource(Path(config.source.removeprefix(FOLDER_PREFIX)).expanduser())
    return TfdsSource(config.source, config.split, config.data_dir, low_resolution)
