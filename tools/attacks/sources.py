"""Pictures, and sources of captioned pictures."""

import io
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from attacks import mutations as m
from attacks.kind import Kind, Read, digest
from attacks.texts import tokens
from imagen_jax.config import DataConfig, StageConfig, UNetConfig
from imagen_jax.data import transforms
from imagen_jax.data.pipeline import LoadExample, ReadBatch, collate
from imagen_jax.data.records import BrokenRecord, Source
from imagen_jax.data.sources import open_source

SIDE = 16
_CONFIG = StageConfig(name="attacked", resolution=SIDE, low_resolution=8, unet=UNetConfig())
_FILES = (m.remove, m.empty, m.swap, m.make_directory, m.make_loop)

# Pictures.

_MODES = ("RGB", "RGBA", "L", "P", "1", "I;16", "CMYK", "LA")
_FORMATS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}


def picture(number: int, side: int = SIDE, mode: str = "RGB", kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side + 3, side, 3)).astype(np.uint8)
    data, image = io.BytesIO(), Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 1 + number % 8
    image = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    image.save(data, kind, exif=exif) if kind in ("PNG", "JPEG") else image.save(data, kind)
    return data.getvalue()


def make_pictures(suffix: str) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        for number, mode in enumerate(_MODES):
            try:
                data = picture(number, mode=mode, kind=_FORMATS[suffix])
            except (OSError, ValueError):  # A format does not have every mode.
                continue
            (directory / f"{number}.{suffix}").write_bytes(data)

    return make


def read_pictures(directory: Path) -> Read:
    """Each is a square of RGB, or broken."""
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        for side in (8, SIDE):
            try:
                transforms.size_of(data, path.name)
                image = transforms.cover(transforms.decode(data, path.name, side), (side, side))
            except BrokenRecord:
                continue
            pixels = np.asarray(image)
            if (pixels.shape, pixels.dtype) != ((side, side, 3), np.uint8):
                raise AssertionError(f"{path.name} became {pixels.dtype} {pixels.shape}")
    return {}


# Sources.


def described(number: int) -> dict:
    return {"caption": f"a red apple {number}", "similarity": number / 10, "status": "success"}


def make_folder(directory: Path) -> None:
    lines = []
    for number in range(9):
        name = f"{number}.png"
        (directory / name).write_bytes(picture(number))
        if number % 3 == 0:
            (directory / f"{number}.txt").write_text(f"one apple {number}\nan apple\n")
        elif number % 3 == 1:
            (directory / f"{number}.json").write_text(json.dumps(described(number)))
        else:
            lines.append(json.dumps({"file_name": name, "text": f"apple {number}", "x": number}))
    (directory / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def make_tars(directory: Path) -> None:
    for shard in range(2):
        files = {}
        for number in range(4 * shard, 4 * shard + 4):
            files[f"{number:09}.png"] = picture(number)
            files[f"{number:09}.json"] = json.dumps(described(number)).encode()
            files[f"{number:09}.txt"] = f"an apple {number}".encode()
        (directory / f"{shard}.tar").write_bytes(m.tar_of(files))


def make_array_records(directory: Path) -> None:
    for shard in range(2):
        records = [
            msgpack.packb({"image": picture(number), "captions": [f"apple {number}"], "x": number})
            for number in range(4 * shard, 4 * shard + 4)
        ]
        write_array_records(directory / f"{shard}.arrayrecord", records)


def write_array_records(path: Path, records: Sequence[bytes]) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def as_array_record(rng: random.Random, data: bytes) -> bytes:
    """Another content of one record, in a file that is whole."""
    with tempfile.NamedTemporaryFile(suffix=".arrayrecord") as file:
        path = Path(file.name)
        path.write_bytes(data)
        reader = ArrayRecordReader(str(path))
        records = reader.read(range(reader.num_records()))
        reader.close()
        number = rng.randrange(len(records))
        if rng.random() < 0.3:
            records[number] = m.as_bytes(rng, records[number])
        else:
            records[number] = _packed(m.change_value(rng, msgpack.unpackb(records[number])))
        write_array_records(path, records)
        return path.read_bytes()


def _packed(value: object) -> bytes:
    try:
        return msgpack.packb(value, unicode_errors="surrogatepass")
    except OverflowError:  # MessagePack has no integers of more than 64 bits.
        return msgpack.packb(2**64 - 1)


def read_source(kind: str, *filters: str) -> Callable[[Path], Read]:
    """Reads all records of a source as training does, and what is said of them."""

    def read(directory: Path) -> Read:
        name = f"{kind}:{directory}"
        return read_all(open_source(DataConfig(source=name, filters=filters, max_broken_share=1.0)))

    return read


def read_all(source: Source) -> Read:
    load, rng = LoadExample(source, _CONFIG), np.random.default_rng(0)
    examples = [load(index, np.random.default_rng(0)) for index in range(len(source))]
    batch = ReadBatch(tokens)(collate(examples))
    if not np.isin(batch["weight"], (0, 1)).all():
        raise AssertionError(f"weights {batch['weight']}")
    found = {}
    for index in range(len(source)):
        try:
            metadata = source.metadata(index)
        except BrokenRecord:
            continue
        metadata.captions.draw(rng).encode()
        if batch["weight"][index]:
            arrays = [batch[name][index] for name in ("image", "low_res", "token_ids", "mask")]
            found[digest(*arrays, metadata)] = "there"
    return found


def with_index(
    make: Callable[[Path], None], read: Callable[[Path], Read]
) -> Callable[[Path], None]:
    def make_and_read(directory: Path) -> None:
        make(directory)
        read(directory)

    return make_and_read


_TAR_INDEX, _NUMBERS = "**/*.members", "**/*.numbers"
_filtered = read_source("webdataset", "side>=2", "similarity>=0")

KINDS: dict[str, Kind] = {
    **{
        f"picture {suffix}": Kind(
            make_pictures(suffix), read_pictures, (f"*.{suffix}",),
            (m.as_png, m.as_bytes) if suffix == "png" else (m.as_bytes,),
        )
        for suffix in _FORMATS
    },
    "captions txt": Kind(make_folder, read_source("folder"), ("*.txt",), (m.as_text, *_FILES)),
    "captions json": Kind(
        make_folder, read_source("folder"), ("*.json",), (m.as_json, m.as_json, *_FILES)
    ),
    "metadata.jsonl": Kind(
        make_folder, read_source("folder"), ("metadata.jsonl",),
        (m.as_json_lines, m.as_json_lines, m.as_text, *_FILES),
    ),
    "tar shard": Kind(
        make_tars, read_source("webdataset"), ("*.tar",), (m.as_tar, m.as_tar, m.as_bytes, *_FILES)
    ),
    "tar index": Kind(
        with_index(make_tars, read_source("webdataset")), read_source("webdataset"), (_TAR_INDEX,),
        (m.as_bytes, m.as_bytes, m.as_safetensors_header, m.remove, m.empty, m.remove_directory),
        exact=True,
    ),
    "filter index": Kind(
        with_index(make_tars, _filtered), _filtered, (_TAR_INDEX, _NUMBERS),
        (m.as_bytes, m.as_bytes, m.as_safetensors_header, m.remove, m.empty, m.swap), exact=True,
    ),
    "array record": Kind(
        make_array_records, read_source("arrayrecord"), ("*.arrayrecord",),
        (m.as_bytes, m.as_bytes, *_FILES), exact=True, may_lack=True,
    ),
    "array record's content": Kind(
        make_array_records, read_source("arrayrecord"), ("*.arrayrecord",),
        (as_array_record,),
    ),
}  # fmt: skip
