"""Data sets by their tfds names: found, or said what may have been meant, and prepared."""

import contextlib
import difflib
import importlib
import io
import re

import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core import naming, read_only_builder

from imagen_jax.config.data import ARRAYRECORD, FOLDER, PREFIXES, WEBDATASET
from imagen_jax.data.places import from_root
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import list_files

_NO_NAMES = (tfds.core.DatasetNotFoundError, ValueError, AssertionError)
"""What tfds raises on an unknown data set or config (ValueError) or version (AssertionError)."""
_DAMAGED = (json_format.ParseError, RuntimeError)
"""What it raises on a description of a prepared data set that cannot be read."""
_NOT_PREPARED = (ImportError, OSError, RuntimeError, ValueError, AssertionError)
_PREFIX = re.compile(r"([^:/\\]+):(?!//|\d|\*)")
"""What is none of ours; versions of tfds names stand behind a colon too."""
_BY_SUFFIX = {".tar": WEBDATASET, ".arrayrecord": ARRAYRECORD}
_PATH = re.compile(r"[./~\\]|\w+://|.*[*?{\[]|.*\.(tar|arrayrecord)$")
_CALL = re.compile(r"^(\w+: )?Failed to construct dataset .*?\}\": ")
_SUGGESTED = 3
_REMEDY = (
    "install what is missing, or copy the data set, prepared as array_record elsewhere, to "
    "data.data_dir."
)


def open_builder(name: str, data_dir: str = "") -> tfds.core.DatasetBuilder:
    """The builder of a tfds name, for array records (which need no TensorFlow).

    Nothing is asked of the network.

    Raises:
        UsageError: there is no such data set, config or version, or its code needs what is not
            installed.
    """
    _check(name, data_dir)
    said = f"data.source is {name!r}; tfds cannot open it"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # It prints when TensorFlow is missing.
            return tfds.builder(name, data_dir=data_dir or None, file_format="array_record")
    except (*_NO_NAMES, *_DAMAGED) as error:
        raise UsageError(f"{said}: {_said_by_tfds(error)}.") from error
    except ImportError as error:
        return _open_prepared(name, data_dir, f"{said} ({_said_by_tfds(error)}); {_REMEDY}")


def _said_by_tfds(error: Exception) -> str:
    """Without the arguments of our call."""
    return _CALL.sub("", reason(error))


def _open_prepared(name: str, data_dir: str, otherwise: str) -> tfds.core.DatasetBuilder:
    """What was prepared before needs no code of its own."""
    place, fields = naming.parse_builder_name_kwargs(name, data_dir=data_dir or None)
    try:
        return read_only_builder.builder_from_files(str(place), **fields)
    except (*_NO_NAMES, *_DAMAGED):
        raise UsageError(otherwise) from None


def prepare(
    builder: tfds.core.DatasetBuilder, name: str, data_dir: str
) -> tfds.core.DatasetBuilder:
    """Builds the data set where that has not been done; returns the builder to read it with.

    Raises:
        UsageError: it cannot be built.
    """
    try:
        builder.download_and_prepare(file_format="array_record")
        return builder
    except _NOT_PREPARED as error:
        again = open_builder(name, data_dir)
        if again.is_prepared():  # By another process in the meantime.
            return again
        raise UsageError(f"{name} cannot be prepared: {reason(error)}.") from error


def _check(name: str, data_dir: str) -> None:
    """Raises a UsageError for what is not the name of a data set that tfds knows or has."""
    said, kinds = f"data.source is {name!r}", ", ".join(PREFIXES)
    if match := _PREFIX.match(name):
        raise UsageError(
            f"{said}; {match[1]}: is none of {kinds}, and tfds's names that ask the network are "
            "not read."
        )
    data_set, known = re.split(r"[/:]", name)[0], _known_names()
    home = from_root(data_dir or tfds.core.constants.DATA_DIR)
    if data_set in known or (data_set.isidentifier() and (home / data_set).is_dir()):
        return
    if prefix := _prefix_for(name):
        raise UsageError(f"{said}, which is a path; write {prefix}{name}")
    if _PATH.match(name):
        raise UsageError(
            f"{said}, which is no tfds name; sources that are files begin with {kinds}"
        )
    nearest = difflib.get_close_matches(data_set, known, _SUGGESTED)
    meant = f"; did you mean {' or '.join(nearest)}?" if nearest else "."
    raise UsageError(f"{said}; tfds cannot open it: it knows no {data_set!r}{meant}")


def _known_names() -> list[str]:
    # Tfds's own import of all names stops at the first that lacks something.
    importlib.import_module("tensorflow_datasets.vision_language")
    return tfds.list_builders(with_community_datasets=False)


def _prefix_for(name: str) -> str:
    """The prefix of the source that a path would be; empty where there is nothing of the kind."""
    if not name or "://" in name:  # A bucket would ask the network.
        return ""
    path = from_root(name)
    files = list_files(f"{path}/*" if path.is_dir() else str(path))
    found = {_BY_SUFFIX.get(file.path.suffix.lower(), "") for file in files} - {""}
    return min(found, default=FOLDER if path.is_dir() else "")
