"""A part of the embeddings while it is made. What is finished of it outlives a kill.

    PART/plan.json                      what is to be done
    PART/encoder, encoder_sha256        fingerprint and digest of the encoder
    PART/lists/00000.safetensors ...    captions of some records
    PART/high.u64, low.u64, row.u32     the index; then sizes.json
    PART/00000-of-00003.array_record    the shards

Once all is there, metadata.json of the whole takes the part in, and what is not listed in
text/cache_format.py goes away. Files appear whole; each of them is made by one process.
"""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Integer

from imagen_jax.config import json_form
from imagen_jax.embedding.caption_sources import (
    CaptionLists,
    Captions,
    CaptionSource,
    read_captions,
    without_repetitions,
    write_list,
)
from imagen_jax.embedding.encoder import CaptionEncoder
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import replacing, threads_for, write_text
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.text.cache_format import INDEX, Plan, Sizes, pack, shard_path, whole
from imagen_jax.text.tokenizer import Tokenizer

RECORDS_PER_LIST = 2**17
"""What is read again at most, and about 40 MB for each caption of a record."""
_COUNTED_LENGTHS = 1024
_WRITER_OPTIONS = "group_size:1,zstd:1"
"""One record a chunk, for random access."""


class UnfinishedPart:
    """What is done to one part; `known` are the captions of those before it."""

    def __init__(self, directory: Path, plan: Plan, known: EmbeddingCache | None):
        self.directory, self.plan, self.known = directory, plan, known
        count = -(-plan.records // RECORDS_PER_LIST)
        self.lists = [directory / "lists" / f"{number:05d}.safetensors" for number in range(count)]

    def records(self, number: int) -> range:
        """Those whose captions are in a list."""
        start = number * RECORDS_PER_LIST
        return range(start, min(start + RECORDS_PER_LIST, self.plan.records))

    def check(self) -> None:
        """Raises a UsageError if other work was begun here."""
        path = self.directory / "plan.json"
        if path.is_file():
            begun = json_form.from_sealed_json(path.read_bytes(), str(path), Plan)
            if difference := json_form.first_difference(begun, self.plan):
                name, was, now = difference
                raise UsageError(
                    f"{self.directory} is unfinished; it was begun with {name} {was!r} and this "
                    f"has {now!r}. Finish it with the same command, or delete it."
                )

    def claim(self) -> None:
        """Writes the plan; throws away what a killed process left half-written."""
        for path in self.directory.rglob(".*.tmp"):
            path.unlink()
        write_text(self.directory / "plan.json", json_form.to_sealed_json(self.plan))

    def write_list(
        self, number: int, source: CaptionSource, tokenizer: Tokenizer, on_record: Callable
    ) -> None:
        """Reads the captions of the records of a list, unless that has been done."""
        records = self.records(number)
        if self.lists[number].is_file():
            on_record(len(records))
            return
        threads = max(threads_for(share.source) for share in self.plan.data.shares)
        read = broken = 0

        def texts() -> Iterable[str]:
            nonlocal read, broken
            for captions in read_captions(source, records, threads):
                broken += captions is None
                for text in captions or ():
                    read += 1
                    yield text
                on_record(1)
            if number == 0:
                yield from self.plan.prompts

        captions = without_repetitions(texts(), tokenizer, self.plan.encoding.max_length)
        write_list(self.lists[number], captions, read=read, broken=broken)

    def open_lists(self) -> CaptionLists:
        return CaptionLists(self.lists, self.plan.captions_per_shard)

    def _captions(self, lists: CaptionLists, shard: int) -> Captions:
        captions = lists.shard(shard)
        if self.known is None:
            return captions
        return captions.take(np.flatnonzero(~self.known.known(captions.high, captions.low)))

    def write_index(self, lists: CaptionLists) -> None:
        """Writes index and sizes, unless that has been done."""
        if (self.directory / "sizes.json").is_file():
            return
        longest = max(_COUNTED_LENGTHS, self.plan.encoding.max_length)
        counts, in_shards = np.zeros(longest + 1, int), []
        with contextlib.ExitStack() as stack:
            paths = [stack.enter_context(replacing(self.directory / name)) for name in INDEX]
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for shard in range(lists.shards):
                captions = self._captions(lists, shard)
                rows = np.empty(len(captions), int)
                rows[_order(captions)] = np.arange(len(captions))
                columns = (captions.high, captions.low, rows)
                for file, dtype, column in zip(files, INDEX.values(), columns, strict=True):
                    file.write(column.astype(dtype).tobytes())
                counts += np.bincount(np.minimum(captions.lengths, longest), minlength=longest + 1)
                in_shards.append(len(captions))
        lengths = np.trim_zeros(counts, "b").tolist()
        sizes = Sizes(
            captions=lists.read,
            broken=lists.broken,
            shards=tuple(in_shards),
            lengths=tuple(lengths),
        )
        write_text(self.directory / "sizes.json", json_form.to_sealed_json(sizes))

    @functools.cached_property
    def sizes(self) -> Sizes:
        """Once the index is written."""
        path = self.directory / "sizes.json"
        return json_form.from_sealed_json(path.read_bytes(), str(path), Sizes)

    def shard(self, number: int) -> Path:
        return shard_path(self.directory, number, len(self.sizes.shards))

    def keep_encoder(self, fingerprint: str, *, writes: bool) -> None:
        """Raises a UsageError if the work was begun with another encoder; one process writes."""
        path = self.directory / "encoder"
        if path.is_file() and path.read_text() != fingerprint:
            raise UsageError(
                f"{self.directory} is unfinished; it was begun with an encoder of other weights "
                "(text_encoder.source). Finish it with the same command, or delete it."
            )
        if writes:
            write_text(path, fingerprint)

    def keep_digest(self, digest: str) -> None:
        write_text(self.directory / "encoder_sha256", digest)

    def encoder_sha256(self) -> str:
        """The digest of the encoder of this part and those before it, once a shard is written."""
        if self.known is not None:
            return self.known.metadata.encoder_sha256
        return (self.directory / "encoder_sha256").read_text()

    def write_shard(
        self, number: int, lists: CaptionLists, encoder: CaptionEncoder, on_caption: Callable
    ) -> None:
        """Embeds the captions of a shard."""
        captions = self._captions(lists, number)
        captions = captions.take(_order(captions))
        path = self.shard(number)
        with replacing(path) as temporary, _writing(path, temporary) as write:
            keys = map(whole, captions.high.tolist(), captions.low.tolist())
            embedded = encoder(captions.ids)
            for key, ids, rows in zip(keys, captions.ids, embedded, strict=True):
                write(pack(key, len(ids), rows))
                on_caption(1)

    def is_written(self, number: int) -> bool:
        """Whether the shard is there; one that is damaged is made again."""
        path = self.shard(number)
        if not path.is_file():  # array_record counts no records in it.
            return False
        try:
            return ArrayRecordReader(str(path)).num_records() == self.sizes.shards[number]
        except (RuntimeError, OSError):
            return False


def tidy(part: Path) -> None:
    """Removes what only the work on a part needed."""
    shutil.rmtree(part / "lists", ignore_errors=True)
    for name in ("plan.json", "encoder", "encoder_sha256", "sizes.json"):
        (part / name).unlink(missing_ok=True)


def _order(captions: Captions) -> Integer[np.ndarray, " captions"]:
    """The captions in the order of their rows: by length, so that batches need little padding."""
    return np.argsort([len(ids) for ids in captions.ids], kind="stable")


@contextlib.contextmanager
def _writing(path: Path, temporary: Path):
    """Gives a function that appends a record to `temporary`, which will be `path`."""

    def checked(call: Callable, *arguments) -> None:
        try:
            call(*arguments)
        except RuntimeError as error:  # All that array_record knows.
            said = reason(error).partition(";")[0]  # It goes on with its own file and its closing.
            raise UsageError(f"{path} cannot be written: {said}.") from error

    writer = ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
    yield lambda record: checked(writer.write, record)
    checked(writer.close)
