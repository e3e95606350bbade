"""Requests in their order, one painted at a time by a thread of its own."""

import collections
import dataclasses
import logging
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from imagen_jax.errors import UsageError
from imagen_jax.serve.limits import Limits

State = Literal["waiting", "painting", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
ARCHIVE = "pictures.zip"
_log = logging.getLogger(__name__)


class Cancelled(Exception):
    """The visitor wants the job no more."""


class Busy(UsageError):
    """So many requests wait that no other is taken."""


@dataclasses.dataclass(eq=False)
class Job:
    """One request and what became of it; the painting thread writes, others read.

    Attributes:
        id: nobody can guess it: who knows it sees the pictures.
        directory: with the job's files, and none of anybody else's.
        about: what the page is told of it all along: settings, command.
        work: what is painted; the painter knows what it is.
        files: names in `directory` that may be downloaded.
        shown: those of the last stage's pictures.
        version: grows with every change.
    """

    id: str
    directory: Path
    about: dict[str, Any]
    work: Any
    state: State = "waiting"
    error: str = ""
    progress: dict[str, int] = dataclasses.field(default_factory=dict)
    preview: list[str] = dataclasses.field(default_factory=list)
    files: list[str] = dataclasses.field(default_factory=list)
    shown: list[str] = dataclasses.field(default_factory=list)
    version: int = 0
    created: float = dataclasses.field(default_factory=time.time)
    unwanted: bool = False

    def tell(self, **changes: Any) -> None:
        """Changes what is seen of the job."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.version += 1


Painter = Callable[[Job], list[Path]]
"""Paints into the job's directory, gives the files to show; raises Cancelled once unwanted."""


class Queue:
    """Jobs that wait, the one that is painted, and the latest that have ended."""

    def __init__(self, paint: Painter, directory: Path, limits: Limits):
        """Starts nothing yet.

        Args:
            directory: for the directories of the jobs; the caller removes it.
        """
        self._paint, self._directory, self._limits = paint, directory, limits
        self._jobs: dict[str, Job] = {}
        self._waiting: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()  # Holds a lock that its thread may take again.
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Ends the thread at the next step of what it paints, and waits for it so long."""
        with self._changed:
            self._stopping = True
            for job in self._jobs.values():
                job.unwanted = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def check_room(self) -> None:
        """Raises Busy where as many jobs wait as may."""
        if len(self._waiting) >= self._limits.max_waiting:
            raise Busy(f"{len(self._waiting)} requests wait already; try again in a while.")

    def add(self, work: Any, about: dict[str, Any], inputs: dict[str, bytes]) -> Job:
        """A new job at the end.

        Args:
            inputs: name -> content of files that the download holds too.

        Raises:
            Busy: as many wait as may.
        """
        name = secrets.token_urlsafe(16)
        job = Job(name, self._directory / name, about, work)
        with self._changed:
            self.check_room()
            job.directory.mkdir()
            for file, content in inputs.items():
                (job.directory / file).write_bytes(content)
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def get(self, name: str) -> Job | None:
        return self._jobs.get(name)

    def before(self, job: Job) -> int:
        """How many jobs are painted before this one, the present one among them."""
        with self._changed:
            painting = any(other.state == "painting" for other in self._jobs.values())
            return self._waiting.index(job) + painting if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """Ends a job, one that is painted at its next step; one that has ended stays as it is."""
        with self._changed:
            if job.state not in ENDED:
                job.unwanted = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, "cancelled")

    def forget(self, job: Job) -> None:
        """Removes what there is of a job that has ended; cancels one that has not."""
        with self._changed:
            self.cancel(job)
            if job.state in ENDED:
                self._remove(job)

    def _run(self) -> None:
        while job := self._next():
            try:
                shown = self._paint(job)
                job.tell(**_packed(job, shown))
                self._end(job, "done")
            except Cancelled:
                self._end(job, "cancelled")
            except UsageError as error:
                self._end(job, "failed", str(error))
            except Exception:  # A job that fails in whatever way must not end those after it.
                _log.exception("A picture could not be painted")
                self._end(job, "failed", "The server made a mistake; its log says which.")

    def _next(self) -> Job | None:
        """Waits for a job; None once there shall be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                return None
            job = self._waiting.popleft()
            job.tell(state="painting")
            return job

    def _end(self, job: Job, state: State, error: str = "") -> None:
        with self._changed:
            job.work = None  # Pictures to edit may be large.
            job.tell(state=state, error=error, preview=[])
            if state != "done":
                shutil.rmtree(job.directory, ignore_errors=True)
            # Those that were cancelled push no pictures out.
            for alike in (["done"], ["failed", "cancelled"]):
                ended = [job for job in self._jobs.values() if job.state in alike]
                for old in ended[: max(0, len(ended) - self._limits.max_kept)]:
                    self._remove(old)

    def _remove(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        shutil.rmtree(job.directory, ignore_errors=True)


def _packed(job: Job, shown: list[Path]) -> dict[str, list[str]]:
    """Packs all files of the job into one; what the page is told of them."""
    files = sorted(path.name for path in job.directory.iterdir())
    with zipfile.ZipFile(job.directory / ARCHIVE, "w") as archive:
        for name in files:
            archive.write(job.directory / name, name)
        archive.writestr("command.txt", job.about["command"] + "\n")
    return {"files": [*files, ARCHIVE], "shown": [path.name for path in shown]}
