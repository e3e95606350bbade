"""Opens a synthetic set of a million records: seconds, and bytes of index a record.

    python benchmarks/data_at_scale.py [--records 1000000] [--directory DIR]

Writes the set first, as tar shards of 10,000 records like img2dataset's and as ArrayRecord files:
about 9 GB for a million records, which are removed again. What is timed is one process on one
machine with its files in the page cache where they fit.
"""

import dataclasses
import io
import json
import pickle
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from imagen_jax.cli.parsing import parse_flags
from imagen_jax.config import DataConfig
from imagen_jax.config.rules import require_positive
from imagen_jax.data.arrayrecord_source import pack, write_file
from imagen_jax.data.records import Source
from imagen_jax.data.sources import open_source
from imagen_jax.errors import exit_on_usage_error

SHARD_RECORDS = 10_000
READS = 5_000


@dataclasses.dataclass(frozen=True)
class Flags:
    records: int = 1_000_000
    """Of the set; rounded up to whole shards."""
    directory: Path = Path(tempfile.gettempdir())
    """Where the set is written for the time that this runs."""


def write_shard(path: Path) -> None:
    """Its times are fractions, so that every header has an extension, as img2dataset's have."""
    rng, picture = np.random.default_rng(0), io.BytesIO()
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture, "JPEG")
    with tarfile.open(path, "w") as shard:
        for number in range(SHARD_RECORDS):
            similarity = round(float(rng.uniform(0.2, 0.5)), 4)
            described = {"caption": f"picture {number}", "width": 16, "similarity": similarity}
            for suffix, data in (
                ("jpg", picture.getvalue()), ("json", json.dumps(described).encode()),
                ("txt", described["caption"].encode()),
            ):  # fmt: skip
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size, member.mtime = len(data), 1.5
                shard.addfile(member, io.BytesIO(data))


def resident_bytes() -> int:
    """Memory of this process that is its own, without files that are mapped."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def timed_open(**fields) -> tuple[Source, float, int]:
    """The source, seconds to open it, and the memory that this took."""
    before, began = resident_bytes(), time.perf_counter()
    source = open_source(DataConfig(**fields))
    return source, time.perf_counter() - began, resident_bytes() - before


def report(what: str, records: int, opened: tuple[Source, float, int], on_disk: int = 0) -> None:
    """`records`: of the whole set, whatever is left of it."""
    source, seconds, memory = opened
    print(
        f"{what}: {len(source):,} of {records:,} records in {seconds:.2f} s; bytes a record: "
        f"{on_disk / records:.1f} on disk, {max(memory, 0) / records:.1f} in memory, "
        f"{len(pickle.dumps(source)) / records:.2f} to each worker process",
        flush=True,
    )


def time_reads(source: Source) -> None:
    places = np.random.default_rng(1).integers(0, len(source), READS)
    began = time.perf_counter()
    for place in places:
        _ = source[int(place)]
    seconds = time.perf_counter() - began
    print(f"  {READS / seconds:,.0f} records a second at random places, one thread", flush=True)


def index_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / ".imagen_jax").iterdir())


def tar_shards(directory: Path, shards: int) -> None:
    write_shard(directory / "00000.tar")
    for number in range(1, shards):
        shutil.copyfile(directory / "00000.tar", directory / f"{number:05d}.tar")
    source, records = f"webdataset:{directory}", shards * SHARD_RECORDS
    report("tar shards, indexed for the first time", records, timed_open(source=source))
    opened = timed_open(source=source)
    report("tar shards, opened again", records, opened, index_bytes(directory))
    time_reads(opened[0])
    filters = {"source": source, "filters": ("similarity>=0.3",)}
    report("tar shards, filtered for the first time", records, timed_open(**filters))
    report("tar shards, filtered again", records, timed_open(**filters), index_bytes(directory))


def array_records(directory: Path, shards: int, source: Source) -> None:
    packed = [pack(source[index], source.metadata(index)) for index in range(SHARD_RECORDS)]
    write_file(directory / "00000.arrayrecord", iter(packed))
    for number in range(1, shards):
        name = f"{number:05d}.arrayrecord"
        shutil.copyfile(directory / "00000.arrayrecord", directory / name)
    opened = timed_open(source=f"arrayrecord:{directory}")
    report("ArrayRecord, opened", len(opened[0]), opened)
    before = resident_bytes()
    time_reads(opened[0])
    used = max(resident_bytes() - before, 0) / len(opened[0])
    print(f"  {used:.1f} bytes a record more in memory once every file was read from")


def main() -> None:
    with exit_on_usage_error():
        flags = parse_flags(lambda: tyro.cli(Flags, description=__doc__))
        require_positive(flags, "records")
        shards = -(-flags.records // SHARD_RECORDS)
        with tempfile.TemporaryDirectory(dir=flags.directory) as place:
            tars, arrays = Path(place) / "tar", Path(place) / "arrayrecord"
            tars.mkdir()
            arrays.mkdir()
            tar_shards(tars, shards)
            source = open_source(DataConfig(source=f"webdataset:{tars / '00000.tar'}"))
            array_records(arrays, shards, source)


if __name__ == "__main__":
    main()
