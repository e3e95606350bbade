"""That one run at a time writes to a directory."""

import fcntl
import secrets
import warnings
from pathlib import Path
from typing import BinaryIO

from imagen_jax.errors import UsageError, reason
from imagen_jax.parallel import distributed
from imagen_jax.storage.files import AnyPath, write_text

_LOCK, _OWNER = ".lock", ".owner"


class Lock:
    """A directory as held by this run, in a `with` block.

    On this machine it is a lock of the operating system: it goes with the process that has it,
    however that ends. A bucket knows no locks, nor do some shared file systems. There the run
    that began last has the directory, and the one before finds by `check` that it has lost it.
    """

    def __init__(self, directory: AnyPath) -> None:
        self._directory, self._mark = directory, secrets.token_hex(16)
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Lock":
        """The first process of a run takes it for all of them, and all must call this.

        Raises:
            UsageError: another run has it, or it cannot be written to.
        """
        problem = ""
        if distributed.leads():
            try:
                self._take()
            except UsageError as error:
                problem = str(error)
        problem = distributed.said_by_all(problem)[0]
        if problem:
            raise UsageError(problem)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _take(self) -> None:
        if isinstance(self._directory, Path) and self._locked():
            return
        write_text(self._directory / _OWNER, self._mark)

    def _locked(self) -> bool:
        """Whether the file system has locks."""
        path = self._directory / _LOCK
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {reason(error)}.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UsageError(
                f"{self._directory} is in use by another run; wait for its end, or choose another "
                "directory."
            ) from error
        except OSError as error:
            file.close()
            warnings.warn(
                f"{self._directory} cannot be locked ({reason(error)}); see to it that no other "
                "run uses it.",
                stacklevel=4,
            )
            return False
        self._file = file
        return True

    def check(self) -> None:
        """Before something is written that another run might be writing. All must call it.

        Raises:
            UsageError: another run has begun in the directory.
        """
        lost = "lost" if distributed.leads() and not self._has() else ""
        if distributed.said_by_all(lost)[0]:
            raise UsageError(
                f"Another run has begun in {self._directory} and has it now; this one ends, and "
                "leaves it alone."
            )

    def _has(self) -> bool:
        if self._file is not None:
            return True
        path = self._directory / _OWNER
        return not path.exists() or path.read_text() == self._mark
