"""Small damage to files, drawn with a `random.Random`: of bytes, of structure, of directories.

A style is a function of (rng, bytes of a file) that gives other bytes. It takes any bytes: where
they do not have the style's structure, it damages them as bytes.
"""

import copy
import io
import json
import random
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imagen_jax.storage.digests import sealed

Style = Callable[[random.Random, bytes], bytes]
_BLOCK = 512
_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 10**30, 10**400, "",
    " ", "x", "0", "-1", "nan", "\0", "\ud800", "é\u2028\u202e", "../..", "/", "~", "x" * 10**5,
    [], [[]], [None], [10**30], [1] * 10**4, {}, {"": {}}, {"x": [{}]}, float("nan"), float("inf"),
)  # fmt: skip
"""Values that nobody means, for any place that holds one."""
_TEXTS = (
    b"\xef\xbb\xbf", b"\xff", b"\x00", b"\r", b"\n\n", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"}", b'"',
    b"[" * 5000, b"9" * 5000, b"NaN", b"1e999", b"\\u0000", b"\\ud800", b" " * 5000,
    b"\xcc\x81" * 99,
)  # fmt: skip

_TAR_SIZES = (
    b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"-1\0", bytes(12), b"00000000001\0",
    b"00000000777\0", b"00000001000\0", b"00000001001\0", b"00003641100\0",
)  # fmt: skip
_TAR_NAMES = (b"../../x.png", b"/etc/x.png", b"\xff.png", b"._0.png", b"", b"a/0.png", b"0" * 100)


def flip_bit(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def put_number(rng: random.Random, data: bytes) -> bytes:
    """An extreme number in 1 to 8 bytes, of either order."""
    number = rng.choice(_NUMBERS).to_bytes(rng.choice((4, 8)), rng.choice(("little", "big")))
    return _replace(data, rng.randrange(len(data) + 1), number[: rng.randint(1, 8)])


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def drop(rng: random.Random, data: bytes) -> bytes:
    start, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 4096))
    return data[:start] + data[start + size :]


def insert(rng: random.Random, data: bytes) -> bytes:
    start, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 4096))
    return data[:start] + rng.randbytes(size) + data[start:]


def repeat(rng: random.Random, data: bytes) -> bytes:
    start, size = rng.randrange(len(data) + 1), rng.choice((1, 16, 512, 4096))
    return data[: start + size] + data[start : start + size] * rng.choice((1, 1, 50)) + data[start:]


def blank(rng: random.Random, data: bytes) -> bytes:
    """As a disk that lost a page."""
    start, size = rng.randrange(len(data) + 1), rng.choice((1, 16, 512, 4096))
    return _replace(data, start, bytes(min(size, len(data) - start)))


_OF_BYTES: tuple[Style, ...] = (flip_bit, flip_bit, put_number, cut, drop, insert, repeat, blank)


def as_bytes(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(_OF_BYTES)(rng, data)


def as_text(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.1:
        return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-7")))
    if rng.random() < 0.3:
        return as_bytes(rng, data)
    start = rng.choice((0, len(data), rng.randrange(len(data) + 1)))
    return data[:start] + rng.choice(_TEXTS) + data[start:]


def change_value(rng: random.Random, value: Any) -> Any:
    """Another value, with one change somewhere in it; `value` itself stays as it is."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    how = rng.choice(("odd", "odd", "odd", "delete", "rename", "swap", "near"))
    if how == "odd":
        holder[key] = rng.choice(ODD)
    elif how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[rng.choice((key + "x", key[:-1], "", key.upper()))] = holder.pop(key)
    elif how == "swap":
        other, place = rng.choice(places)
        holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(holder[key])
    else:
        holder[key] = _near(rng, holder[key])
    return value


def _near(rng: random.Random, value: Any) -> Any:
    """What could be meant in the place of `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((-value, value + 1, value - 1, 2 * value, value * 10**6, value / 2))
    if isinstance(value, str):
        return rng.choice((value + value, value[:-1], value.upper(), f" {value}", [value]))
    return [value]


def _places(value: Any) -> Any:
    """(holder, key) of everything inside of a value of JSON."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def as_json(rng: random.Random, data: bytes) -> bytes:
    try:
        value = json.loads(data)
    except ValueError:
        return as_text(rng, data)
    if rng.random() < 0.2:
        return as_text(rng, data)
    return json.dumps(change_value(rng, value)).encode()


def as_sealed_json(rng: random.Random, data: bytes) -> bytes:
    """A change by somebody who knows how the digest is made."""
    values = json.loads(data)
    values.pop("sha256", None)
    changed = change_value(rng, values)
    return json.dumps(sealed(changed) if isinstance(changed, dict) else changed).encode()


def as_unsealed_json(rng: random.Random, data: bytes) -> bytes:
    """A change in what has no digest, as older versions wrote it."""
    values = json.loads(data)
    values.pop("sha256", None)
    return json.dumps(change_value(rng, values)).encode()


def as_json_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = as_json(rng, lines[number])
    if rng.random() < 0.2:
        rng.shuffle(lines)
    return b"\n".join(lines)


def as_tar(rng: random.Random, data: bytes) -> bytes:
    """A header with other bytes and the checksum that fits them."""
    starts = [start for start in range(0, len(data), _BLOCK) if data[start + 257 :][:5] == b"ustar"]
    if not starts or rng.random() < 0.3:
        return as_bytes(rng, data)
    start = rng.choice(starts)
    header = data[start : start + _BLOCK]
    place, value = rng.choice((
        (0, rng.choice(_TAR_NAMES).ljust(100, b"\0")), (124, rng.choice(_TAR_SIZES)),
        (156, rng.choice((b"x", b"g", b"L", b"K", b"5", b"2", b"1", b"S", b"7", b"\0", b"\xff"))),
        (345, rng.choice((b"..", b"\xff", b"p" * 155))), (rng.randrange(500), rng.randbytes(4)),
    ))  # fmt: skip
    header = _replace(_replace(header, place, value)[:_BLOCK], 148, b" " * 8)
    header = _replace(header, 148, b"%06o\0 " % sum(header))
    return data[:start] + header + data[start + _BLOCK :]


def as_png(rng: random.Random, data: bytes) -> bytes:
    """Other bytes in a chunk, and the checksum that fits them."""
    chunks, start = [], 8
    while start + 12 <= len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + size]))
        start += 12 + size
    if not chunks:
        return as_bytes(rng, data)
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    chunks[number] = (kind, as_bytes(rng, content))
    if rng.random() < 0.2:
        rng.shuffle(chunks)
    return data[:8] + b"".join(
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4)
        for kind, content in chunks
    )


def as_safetensors_header(rng: random.Random, data: bytes) -> bytes:
    """A change of the header that is JSON again, of the length that it says."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(change_value(rng, json.loads(data[8 : 8 + size]))).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def as_arguments(rng: random.Random, data: bytes) -> bytes:
    """A command line, as a list in JSON, with a few words changed."""
    words = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        words = _change_words(rng, words)
    return json.dumps(words).encode()


def _change_words(rng: random.Random, words: list[str]) -> list[str]:
    if len(words) < 2:
        return [*words, "--help"]
    place = rng.randrange(1, len(words))
    word, odd = words[place], rng.choice(ODD)
    text = odd if isinstance(odd, str) else json.dumps(odd)
    others = rng.choice((
        [], [word, word], [text.replace("\0", "")[:1000]], [f"{word}={text[:9]}"], [word[:-1]],
        [word.upper()], [word.replace("-", "_")], ["--", word], [f"--{word}"], [word.lstrip("-")],
        [word, "--no-such-flag", "1"], [word.replace(".", "-")], ["-h"], [""],
    ))  # fmt: skip
    return [*words[:place], *others, *words[place + 1 :]]


def damage(rng: random.Random, directory: Path, files: Sequence[Path], styles: Sequence) -> str:
    """Damages one of `files`, or their directory, and says how in a few words."""
    path = rng.choice(sorted(files))
    style = rng.choice(styles)
    said = f"{style.__name__} {path.relative_to(directory)}"
    if style in OF_FILES:
        style(rng, path, files)
    else:
        path.write_bytes(style(rng, path.read_bytes()))
    return said


def remove(rng: random.Random, path: Path, files: Sequence[Path]) -> None:
    path.unlink()


def empty(rng: random.Random, path: Path, files: Sequence[Path]) -> None:
    path.write_bytes(b"")


def swap(rng: random.Random, path: Path, files: Sequence[Path]) -> None:
    other = rng.choice(sorted(files))
    ours, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(ours)


def make_directory(rng: random.Random, path: Path, files: Sequence[Path]) -> None:
    path.unlink()
    path.mkdir()


def make_loop(rng: random.Random, path: Path, files: Sequence[Path]) -> None:
    path.unlink()
    path.symlink_to(path)


def remove_directory(rng: random.Random, path: Path, files: Sequence[Path]) -> None:
    shutil.rmtree(path.parent)


OF_FILES = (remove, empty, swap, make_directory, make_loop, remove_directory)
"""Styles of (rng, path, all files), which change more than what a file holds."""


def _replace(data: bytes, start: int, other: bytes) -> bytes:
    return data[:start] + other + data[start + len(other) :]


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar archive with these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1700000000.5
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()
