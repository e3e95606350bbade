"""How text embeddings lie on disk, and what says so.

    DIR/metadata.json                     what encoded the captions, and the parts; written last
    DIR/00000/                            a part: captions of one data set that are in none before
    DIR/00000/high.u64, low.u64, row.u32  the index: hashes of captions in order, and their rows
    DIR/00000/00000-of-00003.array_record a shard: one record a caption

The hash of a caption says which shard it is in and the index its row there, in 20 bytes a
caption that are mapped into memory and shared by all processes. A record is the caption's hash, the
number of tokens (uint32) and their embeddings, bfloat16 [tokens, width], little-endian. Padding is
not stored, but where `Encoding.padded` says so: some networks read it.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Int, Shaped, UInt64

from imagen_jax.config import DataConfig, T5Config, json_form
from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import ClipLayer
from imagen_jax.config.encoders import CLIPTextConfig
from imagen_jax.config.network import MOST_TOKENS
from imagen_jax.config.rules import require, require_at_most, require_positive
from imagen_jax.errors import UsageError, reason

FORMAT = "imagen-jax embeddings 1"
METADATA = "metadata.json"
PROMPTS_PREFIX = "prompts:"
"""Of a text file with one prompt a line, in the place of a data set."""
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
INDEX = {"high.u64": np.dtype("<u8"), "low.u64": np.dtype("<u8"), "row.u32": np.dtype("<u4")}
"""Files of an index and what they hold."""

_HALVES = struct.Struct(">QQ")
_HEADER = struct.Struct("<16sI")
HEADER_BYTES = _HEADER.size
"""Of a record, before the rows."""
_HASHES = 2**64
"""Of the first half, which decides on order and shard."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding(Checked):
    """All that decides, beside the encoder's weights, what becomes of a caption.

    Attributes:
        t5: sizes, and how it was computed.
        clip: in the place of T5, as the config has it.
        clip_layer: of that.
        tokenizer: as the config names it.
        vocabulary: fingerprint of the tokenizer.
        max_length: tokens that a caption is cut to.
        lowercase: captions are read in lower case.
        padded: what the encoder gives for padding is stored too.
    """

    t5: T5Config
    tokenizer: str
    vocabulary: str
    max_length: int
    lowercase: bool
    padded: bool
    clip: CLIPTextConfig | None = None
    clip_layer: ClipLayer = "penultimate"

    @property
    def width(self) -> int:
        """Of a token's embedding."""
        return self.t5.d_model if self.clip is None else self.clip.width

    def __post_init__(self) -> None:
        require_positive(self, "max_length")
        require_at_most(self, MOST_TOKENS, max_length=self.max_length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Checked):
    """What must not change while a part is made.

    Attributes:
        encoding: of all parts.
        data: the data set, as training reads it.
        records: of the data set.
        fingerprint: of its files; empty in what was written before there was one.
        prompts: captions beside those of the data set.
        captions_per_shard: about so many.
        batch_tokens: that a device embeds at once.
    """

    encoding: Encoding
    data: DataConfig
    records: int
    fingerprint: str = ""
    prompts: tuple[str, ...]
    captions_per_shard: int
    batch_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes(Checked):
    """How many captions and tokens a part has.

    Attributes:
        captions: read, with repetitions.
        broken: records without any that can be read.
        shards: captions in each shard; they all differ, and none is in a part before.
        lengths: how many of those have 0, 1, 2, ... tokens, both ends among them, before they are
            cut. The last number counts also what is longer.
    """

    captions: int
    broken: int
    shards: tuple[int, ...]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        least = min(self.shards, default=0)
        require(least >= 0, f"Sizes.shards has {least}; no number in it may be negative.")

    @property
    def distinct(self) -> int:
        return sum(self.shards)

    @property
    def longest(self) -> int:
        return max((length for length, count in enumerate(self.lengths) if count), default=0)

    def tokens(self, max_length: int) -> int:
        """The tokens of all captions, once they are cut to `max_length`."""
        return sum(min(length, max_length) * count for length, count in enumerate(self.lengths))

    def longer(self, max_length: int) -> int:
        """Captions that lose their end to `max_length`."""
        return sum(self.lengths[max_length + 1 :])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Checked):
    """What was asked for, what was found, and the bytes that the shards take."""

    plan: Plan
    sizes: Sizes
    shard_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata(Checked):
    """What a directory of embeddings says of itself.

    Attributes:
        encoder: fingerprint of the encoder's weights, `weights.tensors.fingerprint`.
        encoder_sha256: of all of them, as `weights.tensors.digest`.
        source: where the weights were read from.
        versions: of the packages that a result depends on.
    """

    format: str = FORMAT
    encoding: Encoding
    encoder: str
    encoder_sha256: str
    source: str
    parts: tuple[Part, ...]
    versions: dict[str, str]


def part_directory(directory: Path, number: int) -> Path:
    return directory / f"{number:05d}"


def shard_path(part: Path, shard: int, shards: int) -> Path:
    return part / f"{shard:05d}-of-{shards:05d}.array_record"


def hash_of(text: str) -> bytes:
    """16 bytes (BLAKE2b) that no other caption has."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def halves(
    hashes: Sequence[bytes],
) -> tuple[UInt64[np.ndarray, " hashes"], UInt64[np.ndarray, " hashes"]]:
    """First and second half of each hash; pairs of them have the order of the hashes."""
    high, low = np.frombuffer(b"".join(hashes), ">u8").reshape(-1, 2).T
    return high.astype(np.uint64), low.astype(np.uint64)


def whole(high: int, low: int) -> bytes:
    """The hash with these halves."""
    return _HALVES.pack(high, low)


def shard_of(high: int, shards: int) -> int:
    """The shard of a caption by the first half of its hash; shards follow the order of hashes."""
    return high * shards // _HASHES


def shard_starts(shards: int) -> UInt64[np.ndarray, " shards"]:
    """The least first half of a hash in each shard."""
    starts = [-(-shard * _HASHES // shards) for shard in range(shards)]
    return np.array(starts, np.uint64)


def pack(key: bytes, tokens: int, embedding: Shaped[np.ndarray, "rows width"]) -> bytes:
    """The record of the caption with the hash `key`.

    Of the bfloat16 rows the first `tokens` are no padding.
    """
    return _HEADER.pack(key, tokens) + np.ascontiguousarray(embedding).tobytes()


def unpack(record: bytes, key: bytes, width: int) -> tuple[int, Shaped[np.ndarray, "rows width"]]:
    """Tokens and embedding that `pack` was given.

    Raises:
        ValueError: the record is another caption's, or none of this width.
    """
    if len(record) < _HEADER.size:
        raise ValueError(f"a record of {len(record)} bytes")
    owner, tokens = _HEADER.unpack_from(record)
    if owner != key:
        raise ValueError("the record of another caption")
    embedding = np.frombuffer(record, BFLOAT16, offset=_HEADER.size).reshape(-1, width)
    if not 0 < tokens <= len(embedding):
        raise ValueError(f"{tokens} tokens in {len(embedding)} rows")
    return tokens, embedding


def read_metadata(directory: Path) -> Metadata:
    """What was embedded in a directory.

    Raises:
        UsageError: nothing, or not all of it yet, or in another format.
    """
    path = directory / METADATA
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{directory} holds no finished text embeddings ({METADATA}: {reason(error)}); "
            "`python -m imagen_jax embed` makes them."
        ) from error
    metadata = json_form.from_sealed_json(text, str(path), Metadata)
    if metadata.format != FORMAT:
        raise UsageError(f"{path} has format {metadata.format!r}; it must be {FORMAT!r}.")
    return metadata


class Index:
    """The hashes of a part's captions in order, and the row of each in its shard."""

    def __init__(self, part: Path, captions: int):
        """Maps the files of `part` into memory.

        Raises:
            UsageError: one is missing, or is not of this many captions.
        """
        self.high, self.low, self.row = (
            _mapped(part / name, dtype, captions) for name, dtype in INDEX.items()
        )

    def find(
        self, high: UInt64[np.ndarray, " hashes"], low: UInt64[np.ndarray, " hashes"]
    ) -> Int[np.ndarray, " hashes"]:
        """The place of each hash in the order, -1 where it has none."""
        found = np.full(len(high), -1)
        # A binary search, which reads but a few pages of the file.
        places = np.searchsorted(self.high, high)
        rest = np.arange(len(high))
        while len(rest):  # Once, unless two captions share the first half of their hashes.
            rest = rest[places[rest] < len(self.high)]
            rest = rest[self.high[places[rest]] == high[rest]]
            same = self.low[places[rest]] == low[rest]
            found[rest[same]] = places[rest[same]]
            rest = rest[~same]
            places[rest] += 1
        return found


def _mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    try:
        size = path.stat().st_size
        if size != count * dtype.itemsize:
            raise UsageError(
                f"{path} is damaged: it has {size} bytes and needs {count * dtype.itemsize}."
            )
        # An empty file cannot be mapped.
        return np.memmap(path, dtype, "r") if count else np.empty(0, dtype)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}.") from error
