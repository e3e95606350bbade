"""Any source as ArrayRecord files, without its broken records."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from imagen_jax.config import ConditionsConfig
from imagen_jax.data import shown, transforms
from imagen_jax.data.arrayrecord_source import pack, write_file
from imagen_jax.data.broken import Tally
from imagen_jax.data.records import BrokenRecord, Source
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import replacing_directory

_TRY_SIDE = 64
"""At which pictures are decoded to see whether they can be: low, for a JPEG is faster then."""


def pack_source(
    source: Source,
    directory: Path,
    shard_records: int,
    conditions: ConditionsConfig = ConditionsConfig(),  # noqa: B008
) -> tuple[int, Tally]:
    """Writes `directory`/00000.arrayrecord and so on, with `shard_records` records each.

    The directory, a new or empty one, appears once all is written: half of a data set is none.

    Args:
        conditions: what the records bring beside their pictures.

    Returns the number of records written, and what was left out because it is broken.

    Raises:
        UsageError: a file cannot be written.
    """
    left_out, count = Tally(), 0
    packed = _good_records(source, left_out, conditions)
    with replacing_directory(directory) as place:
        for number in itertools.count():
            first = next(packed, None)
            if first is None:
                break
            rest = itertools.islice(packed, shard_records - 1)
            path = place / f"{number:05d}.arrayrecord"
            count += write_file(path, itertools.chain([first], rest))
    return count, left_out


def _good_records(source: Source, left_out: Tally, conditions: ConditionsConfig) -> Iterator[bytes]:
    for index in tqdm(range(len(source)), "packing", unit="record", delay=2, leave=False):
        try:
            record = source[index]
            image = transforms.decode(record.image, record.name, _TRY_SIDE)
            for condition in conditions.shown:
                shown.beside(condition, record, image, _TRY_SIDE)
            yield pack(record, source.metadata(index))
        except BrokenRecord as error:
            left_out.add(error.reason, error.name)
        except OSError as error:  # Of a bucket; whoever writes would take it for its own.
            raise UsageError(f"Record {index} cannot be read: {reason(error)}.") from error
