"""Text embeddings that were made once, read in the place of a text encoder."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Shaped

from imagen_jax.config import StageConfig, T5Config, json_form
from imagen_jax.config.encoders import CLIPTextConfig
from imagen_jax.errors import UsageError, reason
from imagen_jax.text.cache_format import (
    BFLOAT16,
    Index,
    halves,
    hash_of,
    part_directory,
    read_metadata,
    shard_of,
    shard_path,
    unpack,
    whole,
)
from imagen_jax.text.clip_tokenizer import tokenizer_of
from imagen_jax.text.tokenizer import as_read

Network = TypeVar("Network", T5Config, CLIPTextConfig | None)
_OPEN_SHARDS = 256
"""Of one process at once; each takes 130 kB."""
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
_READ_BUFFER = 2**15


class EmbeddingCache:
    """Captions -> embeddings and mask. Can be read by several threads and sent to processes.

    Attributes:
        directory: what `embed` wrote.
        metadata: its description.
    """

    def __init__(self, directory: Path):
        """Opens the indices; shards are opened when they are needed.

        Raises:
            UsageError: it holds no finished embeddings, or an index is missing or damaged.
        """
        self.directory, self.metadata = directory, read_metadata(directory)
        parts = enumerate(self.metadata.parts)
        self._indices = [
            Index(part_directory(directory, number), part.sizes.distinct) for number, part in parts
        ]
        self._reader = functools.lru_cache(_OPEN_SHARDS)(_open_shard)

    def __reduce__(self) -> tuple:
        return EmbeddingCache, (self.directory,)

    def __call__(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """`text`, bfloat16 [captions, max_length, width], zero behind the last token, and `mask`.

        Raises:
            UsageError: a caption has no embedding, or its shard is missing or damaged.
        """
        encoding, found = self.metadata.encoding, []
        for caption, place in zip(captions, self._places(captions), strict=True):
            if place is None:
                raise UsageError(
                    f"The caption {caption!r} has no embedding in {self.directory}; `python "
                    f"-m imagen_jax embed DATASET {self.directory} --stage STAGE` adds those of a "
                    "data set."
                )
            found.append(self._read(*place))
        # Not before: only records that were read show that these sizes are true.
        text = np.zeros((len(captions), encoding.max_length, encoding.width), BFLOAT16)
        mask = np.zeros(text.shape[:2], bool)
        for row, (tokens, embedding) in enumerate(found):
            text[row, : len(embedding)] = embedding
            mask[row, :tokens] = True
        return {"text": text, "mask": mask}

    def known(
        self, high: Shaped[np.ndarray, " hashes"], low: Shaped[np.ndarray, " hashes"]
    ) -> Shaped[np.ndarray, " hashes"]:
        """Whether the caption of each hash has an embedding."""
        known = np.zeros(len(high), bool)
        for index in self._indices:
            known |= index.find(high, low) >= 0
        return known

    def missing(self, captions: Sequence[str]) -> list[str]:
        """Those without an embedding."""
        places = zip(captions, self._places(captions), strict=True)
        return [caption for caption, place in places if place is None]

    def _places(self, captions: Sequence[str]) -> list[tuple[int, int] | None]:
        """Part and place in its index of each caption, None where it has none."""
        lowercase = self.metadata.encoding.lowercase
        high, low = halves([hash_of(as_read(caption, lowercase)) for caption in captions])
        places: list[tuple[int, int] | None] = [None] * len(captions)
        for number, index in enumerate(self._indices):
            for row, place in enumerate(index.find(high, low)):
                if place >= 0:
                    places[row] = (number, int(place))
        return places

    def _read(self, number: int, place: int) -> tuple[int, Shaped[np.ndarray, "rows width"]]:
        """Tokens and embedding at a place of a part's index."""
        index, encoding = self._indices[number], self.metadata.encoding
        high, low, row = (int(column[place]) for column in (index.high, index.low, index.row))
        shards = len(self.metadata.parts[number].sizes.shards)
        part = part_directory(self.directory, number)
        path = shard_path(part, shard_of(high, shards), shards)
        try:
            (record,) = self._reader(path).read([row])
            tokens, embedding = unpack(record, whole(high, low), encoding.width)
            rows = encoding.max_length if encoding.padded else tokens
            if len(embedding) != rows or tokens > encoding.max_length:
                raise ValueError(f"{len(embedding)} rows of {tokens} tokens")
        # RuntimeErrors are array_record's; it has no class for a file that is damaged.
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise UsageError(
                f"The shard {path} or the index beside it cannot be read or is damaged "
                f"({reason(error)}); embed its data set anew in another directory."
            ) from error
        return tokens, embedding

    def check(self, config: StageConfig) -> None:
        """Raises a UsageError unless a stage's own encoder would give these embeddings.

        But for rounding: how it is computed may differ. So may a tokenizer's directory.
        """
        stored, encoder = self.metadata.encoding, config.text_encoder
        wanted = dataclasses.replace(
            stored,
            t5=_computed_as(encoder.t5, stored.t5),
            clip=_computed_as(encoder.clip, stored.clip),
            clip_layer=encoder.clip_layer,
            max_length=encoder.max_length,
            lowercase=encoder.lowercase,
        )
        if encoder.tokenizer != stored.tokenizer:
            vocabulary = tokenizer_of(encoder).fingerprint
            if vocabulary != stored.vocabulary:
                wanted = dataclasses.replace(wanted, tokenizer=encoder.tokenizer)
        if difference := json_form.first_difference(stored, wanted):
            name, was, now = difference
            raise UsageError(
                f"{self.directory} was embedded with text_encoder.{name} {was!r}; this stage has "
                f"{now!r}."
            )
        if config.unet.variant.reads_padding and not stored.padded:
            raise UsageError(
                f"The U-Net of {config.name!r} reads padding, which {self.directory} does not "
                "hold; embed with this stage as --stage."
            )


def _computed_as(config: Network, other: Network) -> Network:
    """A network's sizes, computed as another is."""
    if config is None or other is None:
        return config
    return dataclasses.replace(config, dtype=other.dtype, remat=other.remat)


def _open_shard(path: Path) -> ArrayRecordReader:
    return ArrayRecordReader(str(path), _RANDOM_ACCESS, file_reader_buffer_size=_READ_BUFFER)
