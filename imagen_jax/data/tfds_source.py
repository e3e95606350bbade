"""Any tfds data set that has an image and a text feature, read without TensorFlow."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from imagen_jax.config import ConditionsConfig
from imagen_jax.config.conditions import LOW_RES
from imagen_jax.data import annotations, captioned_emoji
from imagen_jax.data.broken import Tally
from imagen_jax.data.captions import PairCaptions, WordedCaptions
from imagen_jax.data.emoji_vectors import STYLES
from imagen_jax.data.records import BrokenRecord, Captions, Metadata, Record
from imagen_jax.data.tfds_builders import open_builder, prepare
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import list_files, to_path

_TEXT_ALONE = ConditionsConfig()
CAPTION_FEATURES = ("caption", "captions", "text", "description", "title")
"""The first of these that stands in a text feature's path wins over other text features."""

_NAMES_OF_PAIR = ("label", "synonyms"), ("beside", "beside_synonyms")
"""Features of the names of the left and of the right one of two emoji."""

FeaturePath = tuple[str, ...]


class TfdsSource:
    """One split of a prepared tfds data set."""

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str = "",
        low_resolution: int | None = None,
        conditions: ConditionsConfig = _TEXT_ALONE,
    ):
        """Opens the split, building the data set first where that has not been done.

        Args:
            name: as `tfds.builder` takes it.
            split: as tfds takes it, slices too.
            data_dir: of tfds; empty for its default.
            low_resolution: side of the stage's low-resolution picture. Records carry one where
                the data set has an image feature `low_res` of this size.
            conditions: what the stage is told; pictures are image features of these names.

        Raises:
            UsageError: unknown name or split, no image feature, or no text feature for a stage that
                reads text.
        """
        builder = open_builder(name, data_dir)
        self.name, self.left_out = f"{name}:{split}", Tally()
        self._image = image_feature(builder)
        low_res = low_res_feature(builder, low_resolution)
        self._pictures = [LOW_RES] if low_res else []
        self._pictures += [picture.name for picture in conditions.shown]
        _require_pictures(builder, self._pictures)
        self._is_emoji, self._reads_text = builder.name == captioned_emoji.NAME, conditions.text
        finds_text = self._reads_text and not self._is_emoji
        self._text = text_feature(builder) if finds_text else ()
        # Only now: to prepare may take hours.
        builder = prepare(builder, name, data_dir)
        self._records = _read_split(builder, split)
        self.home = to_path(str(builder.data_path))

    @property
    def fingerprint(self) -> str:
        """Changes with the files of the data set, and with the split."""
        files = list_files(f"{self.home}/*.array_record*")
        return hashlib.sha256(repr((self.name, files)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        name, record = self._read(index)
        pictures = {x: record[x] for x in self._pictures}
        return Record(name, record[self._image], self._captions(record, name), pictures)

    def metadata(self, index: int) -> Metadata:
        name, record = self._read(index)
        numbers = _numbers(record)
        if self._is_emoji:
            numbers["style"] = float(STYLES.index(record["style"].decode()))
        return Metadata(self._captions(record, name), numbers)

    def _read(self, index: int) -> tuple[str, dict[str, Any]]:
        name = f"{self.name}[{index}]"
        try:
            return name, self._records[index]
        except (ValueError, IndexError, RuntimeError) as error:  # Of array_record and protobuf.
            raise BrokenRecord(name, "record unreadable", reason(error)) from error

    def _captions(self, record: dict[str, Any], name: str) -> Captions | None:
        if not self._reads_text:
            return None
        if self._is_emoji:
            return _emoji_captions(record)
        value = functools.reduce(lambda part, key: part[key], self._text, record)
        texts = np.ravel(np.asarray(value, dtype=object))
        return annotations.listed([annotations.read_text(text, name) for text in texts], name)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Scalar features, by name."""
    scalars = {
        name: x for name, x in record.items() if isinstance(x, np.generic) or np.ndim(x) == 0
    }
    return annotations.numbers_of({name: np.asarray(x).item() for name, x in scalars.items()})


def _emoji_captions(record: dict[str, bytes]) -> WordedCaptions | PairCaptions:
    if "beside" in record:
        left, right = (
            (record[name].decode(), *_listed(record[names])) for name, names in _NAMES_OF_PAIR
        )
        return PairCaptions(left, right, record["style"].decode())
    listed = {name: _listed(record[name]) for name in ("synonyms", "keywords")}
    names = {field.name for field in dataclasses.fields(WordedCaptions)} - listed.keys()
    return WordedCaptions(**{name: record[name].decode() for name in names}, **listed)


def _listed(words: bytes) -> tuple[str, ...]:
    return tuple(filter(None, words.decode().split(captioned_emoji.SEPARATOR)))


def image_features(builder: tfds.core.DatasetBuilder) -> dict[str, tfds.features.Image]:
    """Name -> feature, of the images at the top level."""
    features = builder.info.features.items()
    return {name: part for name, part in features if isinstance(part, tfds.features.Image)}


def image_feature(builder: tfds.core.DatasetBuilder) -> str:
    """The name of the image feature: `image`, or the only one there is."""
    names = list(image_features(builder))
    if "image" in names:
        return "image"
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise UsageError(
            f"{builder.info.full_name} needs an image feature named 'image', or just one; "
            f"it has {found}."
        )
    return names[0]


def _require_pictures(builder: tfds.core.DatasetBuilder, names: Sequence[str]) -> None:
    features = image_features(builder)
    for name in names:
        if name not in features:
            raise UsageError(
                f"conditions.pictures has {name!r}; {builder.info.full_name} has the image "
                f"features {', '.join(features)}."
            )


def low_res_feature(builder: tfds.core.DatasetBuilder, low_resolution: int | None) -> str | None:
    """`low_res` where the data set has it at the wanted size, else None."""
    feature = image_features(builder).get(LOW_RES)
    wanted = (low_resolution, low_resolution)
    return LOW_RES if feature is not None and feature.shape[:2] == wanted else None


def _text_paths(feature: object, path: FeaturePath = ()) -> Iterator[FeaturePath]:
    """Paths of all text features, also within sequences and dicts."""
    if isinstance(feature, tfds.features.Text):
        yield path
    elif isinstance(feature, tfds.features.FeaturesDict):
        for name, part in feature.items():
            yield from _text_paths(part, (*path, name))
    elif isinstance(feature, tfds.features.Sequence):
        yield from _text_paths(feature.feature, path)


def text_feature(builder: tfds.core.DatasetBuilder) -> FeaturePath:
    """The path of the caption: the best of `CAPTION_FEATURES`, or the only text feature."""
    paths = list(_text_paths(builder.info.features))
    for wanted in CAPTION_FEATURES:
        for path in paths:
            if wanted in path:
                return path
    if len(paths) != 1:
        found = ", ".join("/".join(path) for path in paths) or "none"
        raise UsageError(
            f"{builder.info.full_name} needs one text feature, or one named "
            f"{' or '.join(CAPTION_FEATURES)}; it has {found}."
        )
    return paths[0]


def _read_split(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[dict[str, Any]]:
    """Random access to the records of a split; images stay encoded."""
    encoded = {name: tfds.decode.SkipDecoding() for name in image_features(builder)}
    try:
        records = builder.as_data_source(split=split, decoders=encoded)
    except ValueError as error:
        known = ", ".join(
            f"{key} ({info.num_examples})" for key, info in builder.info.splits.items()
        )
        raise UsageError(
            f"data.split is {split!r}; {builder.info.full_name} has {known}."
        ) from error
    except NotImplementedError as error:
        raise UsageError(
            f"{builder.data_dir} is not stored as array_record; name another data.data_dir to "
            "prepare it again."
        ) from error
    if not len(records):
        raise UsageError(f"data.split is {split!r}; it holds no record.")
    return records
