"""Files that appear whole or not at all, here or in a bucket. No JAX here."""

import contextlib
import dataclasses
import glob
import importlib.util
import os
import re
import secrets
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
from etils import epath

from imagen_jax.errors import UsageError, reason

AnyPath = Path | epath.Path
"""A local path, or one in a bucket; training directories may be either."""
_BUCKET = "gs://"
_LOCAL_THREADS, _BUCKET_THREADS = 8, 64
_VERSIONS = ("generation", "etag", "mtime", "updated", "created")
"""What file systems of buckets call that which changes with every write of a file."""
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_NAME_KEPT = 48
_LOGS = re.compile(r"(?i)(.*\.)?(log|out|err|txt|stdout|stderr|[oe]\d+)(\.\d+)?")
"""Names of files to which a shell or a scheduler writes what a run says; PBS's end in .o17."""
_NEW = {"lost+found", "desktop.ini", "Thumbs.db"}
"""What a new file system holds, or a window that shows a directory."""


def on_hub(text: str) -> bool:
    """Whether a text names something on Hugging Face's hub; see `storage.hub`."""
    return text.startswith("hf:")


def to_path(text: str) -> AnyPath:
    """A path of this machine, or `gs://bucket/...`.

    Raises:
        UsageError: the bucket cannot be reached, or it is an address on the hub.
    """
    if on_hub(text):
        raise UsageError(f"{text} is on the hub; only stages and text encoders are read from it.")
    if not text.startswith(_BUCKET):
        return Path(text)
    if importlib.util.find_spec("gcsfs") is None:
        raise UsageError(f'{text} needs gcsfs; install this package with its extra "gcs".')
    path = epath.Path(text)
    try:
        path.exists()
    except Exception as error:  # Of credentials, network or bucket, each with classes of its own.
        raise UsageError(f"{text} cannot be reached: {reason(error)}.") from error
    return path


def absolute(path: AnyPath) -> AnyPath:
    """The path from the root, without links; that of what is in a bucket is so already.

    Of links that lead to each other it is that of one of them, where `Path.resolve` may raise.
    """
    return Path(os.path.realpath(path)) if isinstance(path, Path) else path


def with_home(path: Path) -> Path:
    """The path with a home directory in the place of ~, which a shell leaves behind a colon.

    Raises:
        UsageError: it is that of a user whom there is not.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path} is nowhere: {reason(error)}.") from error


class LocalFile:
    """A file on this machine's disk; of one in a bucket a copy, which goes when this object does.

    Attributes:
        origin: as it was named.
        path: where to read it.
    """

    def __init__(self, origin: AnyPath) -> None:
        self.origin = self.path = origin
        if not isinstance(origin, Path):
            directory = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            self.path = Path(directory) / origin.name
            with origin.open("rb") as source, self.path.open("wb") as copy:
                shutil.copyfileobj(source, copy)


@dataclasses.dataclass(frozen=True)
class FileState:
    """A file as it was found; another `size` or `version` is another content."""

    path: AnyPath
    size: int
    version: str


def list_files(pattern: str) -> list[FileState]:
    """The files that match `pattern` (*, ?, [...] and ** as in a shell), in order of their names.

    Below ** each real directory is seen once. A link that leads nowhere is a file too; that there
    is nothing to be read shows later. A bucket is asked once, not once a file.
    """
    if pattern.startswith(_BUCKET):
        system, _ = fsspec.url_to_fs(pattern)
        found = system.glob(pattern, detail=True)
        files = [_of_bucket(name, info) for name, info in found.items() if info["type"] == "file"]
    else:
        files = list(filter(None, map(state_of, _matching(pattern))))
    return sorted(files, key=lambda file: str(file.path))


def _matching(pattern: str) -> Iterator[Path]:
    head, deep, tail = pattern.partition("/**")
    if not deep or tail[:1] not in ("", "/"):
        yield from map(Path, glob.iglob(pattern))
        return
    for top in glob.iglob(f"{head}/"):
        for directory, _ in directories_below(Path(top)):
            yield from _matching(f"{glob.escape(str(directory))}{tail or '/*'}")


def directories_below(
    top: Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """`top` and the directories below it but hidden ones, each real one once; with their files.

    A link to a directory that was seen, such as its own, is not followed.

    Args:
        onerror: is told of a directory that cannot be read.
    """
    seen = set()
    for directory, below, names in os.walk(top, onerror=onerror, followlinks=True):
        found = os.stat(directory)
        if (found.st_dev, found.st_ino) in seen:
            below.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield Path(directory), names


def _of_bucket(name: str, info: dict) -> FileState:
    name = name if name.startswith(_BUCKET) else _BUCKET + name
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return FileState(epath.Path(name), info["size"], version)


def state_of(path: Path) -> FileState | None:
    """That of a file of this machine; None for what is none, such as a directory or a pipe."""
    try:
        found = path.stat()
    except OSError:
        return FileState(path, 0, "unreadable")
    regular = stat.S_ISREG(found.st_mode)
    return FileState(path, found.st_size, str(found.st_mtime_ns)) if regular else None


def read_range(path: AnyPath, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, or fewer where it ends; one request to a bucket.

    From any thread or process: nothing stays open.
    """
    if isinstance(path, Path):
        file = os.open(path, os.O_RDONLY)
        try:
            return os.pread(file, size, start)
        finally:
            os.close(file)
    system, name = fsspec.url_to_fs(os.fspath(path))
    return system.cat_file(name, start=start, end=start + size)


def threads_for(place: str) -> int:
    """How many threads should read from there: a bucket answers late, but many at once."""
    return _BUCKET_THREADS if _BUCKET in place else min(_LOCAL_THREADS, os.cpu_count() or 1)


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[AnyPath]:
    """Gives a temporary path beside `path`, and puts what was written there in its place.

    Makes the directory. If the block fails, `path` stays as it is and nothing is left behind. On
    this machine the temporary file is a new and empty one, of a name that nobody can foresee.

    Raises:
        UsageError: the file cannot be written, and why.
    """
    if not path.name:
        raise UsageError(f"{path} cannot be written: it is a directory.")
    # Of a name that is as long as a name may be, only the beginning fits.
    temporary = path.with_name(f".{path.name[:_NAME_KEPT]}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(temporary, Path):
            os.close(os.open(temporary, _NEW_FILE, 0o666))
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {reason(error)}.") from error


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """`replacing` of a directory, which is empty or not there yet."""
    path = Path(os.path.realpath(path))  # What a link leads to is replaced, and not the link.
    if os.path.ismount(path):
        raise UsageError(f"{path} is a mount point, which stays; name a directory in it.")
    temporary = path.with_name(f".{path.name[:_NAME_KEPT]}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {reason(error)}.") from error


def write_text(path: AnyPath, text: str) -> None:
    """Writes UTF-8 by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def beside_logs(path: AnyPath) -> str:
    """The name of something at `path` that was there before a command began to write to it.

    Empty where there is nothing, or a directory with nothing but what a machine, a shell or a
    scheduler leaves in a new one: logs and hidden files.
    """
    if not path.is_dir():
        return path.name if path.exists() else ""
    names = sorted(entry.name for entry in path.iterdir())
    others = (name for name in names if not name.startswith(".") and name not in _NEW)
    return next((name for name in others if not _LOGS.fullmatch(name)), "")


def check_writable(directory: Path, flag: str) -> None:
    """Raises a UsageError unless `directory` is, or can be made, one to write to.

    It makes nothing: a run that fails later leaves no empty directory.

    Args:
        flag: what was asked for, such as "--out is runs".
    """
    if "\0" in str(directory):
        raise UsageError(f"{flag}; the name of a directory has no NUL.")
    directory = directory.absolute()
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    if not nearest.is_dir():
        raise UsageError(f"{flag}, but {nearest} is a file; it must be a directory.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{flag}, but {nearest} cannot be written to.")
