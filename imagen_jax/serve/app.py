"""The page's addresses: what is asked there, and what is answered."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from imagen_jax.data.emoji_words import Vocabulary
from imagen_jax.errors import UsageError
from imagen_jax.serve.command import Given, command, file_of
from imagen_jax.serve.guard import Guard
from imagen_jax.serve.jobs import ENDED, Busy, Job, Queue
from imagen_jax.serve.limits import Limits
from imagen_jax.serve.order import Order
from imagen_jax.serve.painter import Work

_PAGE = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "brush.js": ("brush.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Address -> file in the package and its type; there is no other file."""
_MEGABYTE = 10**6
_SECONDS_FOR_A_BODY = 60
_CUT = {"Connection": "close"}
"""The server would read what is left of a request, to its end."""
_LOOK_EVERY = 0.2
"""Seconds."""
_MOST_WATCHED = 16
_QUIET = 15.0
"""Seconds after which a stream says that it is still there, and hears whether its reader is."""


class Page:
    """The answers; each method is one address."""

    def __init__(
        self,
        queue: Queue,
        about: dict[str, Any],
        given: Given,
        limits: Limits,
        vocabulary: Vocabulary | None,
    ):
        """Arguments are those of `make_app`."""
        self._queue, self._about, self._given, self._limits = queue, about, given, limits
        self._vocabulary = vocabulary

    async def tell_about(self, request: Request) -> Response:
        return JSONResponse(self._about)

    async def add(self, request: Request) -> Response:
        """Takes an order; 202 and the job, or a sentence that says why not."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "An order is JSON.")
        body = await self._body(request)
        try:
            job = await run_in_threadpool(self._take, body)
        except Busy as error:
            raise HTTPException(503, str(error)) from error
        except UsageError as error:
            raise HTTPException(422, str(error)) from error
        return JSONResponse(self._told(job), 202)

    async def show(self, request: Request) -> Response:
        return JSONResponse(self._told(self._job(request)))

    async def cancel(self, request: Request) -> Response:
        job = self._job(request)
        self._queue.cancel(job)
        return JSONResponse(self._told(job))

    async def forget(self, request: Request) -> Response:
        await run_in_threadpool(self._queue.forget, self._job(request))
        return JSONResponse({})

    async def file(self, request: Request) -> Response:
        """One of the files that the job says it has."""
        job, name = self._job(request), request.path_params["name"]
        path = job.directory / name if name in job.files else None
        if path is None or not path.is_file():
            raise HTTPException(404, "There is no such file.")
        return FileResponse(path, filename=name if "download" in request.query_params else None)

    async def events(self, request: Request) -> Response:
        """A stream of what becomes of the jobs that `?job=` names, until all have ended."""
        names = request.query_params.getlist("job")[:_MOST_WATCHED]
        jobs = [job for job in map(self._queue.get, names) if job is not None]
        return StreamingResponse(self._stream(jobs), media_type="text/event-stream")

    async def _stream(self, jobs: Sequence[Job]) -> AsyncIterator[str]:
        seen: dict[str, tuple] = {}
        quiet = 0.0
        while True:
            for job in jobs:
                now = (job.version, job.unwanted, self._queue.before(job))
                if seen.get(job.id) != now:
                    seen[job.id], quiet = now, 0.0
                    yield f"data: {json.dumps(self._told(job))}\n\n"
            if all(job.state in ENDED for job in jobs):
                yield "event: end\ndata:\n\n"
                return
            if quiet >= _QUIET:
                quiet = 0.0
                yield ": waiting\n\n"
            await asyncio.sleep(_LOOK_EVERY)
            quiet += _LOOK_EVERY

    async def _body(self, request: Request) -> bytes:
        """The body, as long as it is no larger and comes no later than it may."""
        most, body = self._limits.max_upload_mb * _MEGABYTE, bytearray()
        try:
            async with asyncio.timeout(_SECONDS_FOR_A_BODY):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise HTTPException(
                            413, f"The request has more than {self._limits.max_upload_mb} MB.", _CUT
                        )
        except TimeoutError as error:
            raise HTTPException(408, "The request came too slowly.", _CUT) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "The request ended before its end.") from error
        return bytes(body)

    def _take(self, body: bytes) -> Job:
        self._queue.check_room()  # Before pictures are decoded.
        defaults = self._about["stages"]
        kinds = {picture["name"]: picture["kind"] for picture in self._about["shown"]}
        order = Order.read(body, len(defaults), self._limits, kinds)
        if not order.prompt and self._about["reads_text"]:
            raise UsageError("There is no prompt.")
        pictures = order.pictures(self._limits)
        has_map = any(kinds[name] == "labels" for name in order.shown)
        given = self._given if has_map else dataclasses.replace(self._given, palette="")
        about = {
            "order": order.model_dump(exclude={"image", "mask", "shown"}),
            "edits": list(pictures),
            "command": command(order, given, defaults),
            "notice": self._vocabulary
            and self._vocabulary.warning([order.prompt], defaults[0]["name"]),
        }
        files = {part: file_of(part) for part in pictures}
        work = Work(order.without_pictures(), files, given.palette)
        inputs = {files[part]: picture for part, picture in pictures.items()}
        return self._queue.add(work, about, inputs)

    def _job(self, request: Request) -> Job:
        job = self._queue.get(request.path_params["job"])
        if job is None:
            raise HTTPException(404, "There is no such request any more.")
        return job

    def _told(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "state": job.state,
            "cancelling": job.unwanted and job.state == "painting",
            "before": self._queue.before(job),
            "error": job.error,
            "progress": job.progress,
            "preview": list(job.preview),
            "files": job.files,
            "shown": job.shown,
            "created": job.created,
            **job.about,
        }


async def _refuse(request: Request, error: Exception) -> Response:
    """One sentence as JSON; 404 of what is not there too."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _page_files() -> list[Route]:
    def route(address: str, name: str, kind: str) -> Route:
        content = resources.files("imagen_jax.serve").joinpath("page", name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return Route(f"/{address}", answer)

    return [route(address, *file) for address, file in _PAGE.items()]


def make_app(
    queue: Queue,
    about: dict[str, Any],
    given: Given,
    limits: Limits,
    hosts: Sequence[str],
    vocabulary: Vocabulary | None = None,
) -> Starlette:
    """The application; it starts and stops the queue.

    Args:
        about: what the page is told at its start; "stages" has what each one's config says.
        given: the stages as a command names them.
        hosts: names by which browsers may call the server; "*" is any.
        vocabulary: words that the first stage knows; None where nobody can say.
    """
    page = Page(queue, about, given, limits, vocabulary)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        queue.start()
        yield
        await run_in_threadpool(queue.stop)

    routes = [
        *_page_files(),
        Route("/api/about", page.tell_about),
        Route("/api/jobs", page.add, methods=["POST"]),
        Route("/api/jobs/{job}", page.show),
        Route("/api/jobs/{job}", page.forget, methods=["DELETE"]),
        Route("/api/jobs/{job}/cancel", page.cancel, methods=["POST"]),
        Route("/api/jobs/{job}/{name}", page.file),
        Route("/api/events", page.events),
    ]
    # Without a known name a site could lead its own to this machine and read the answers.
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        Middleware(Guard),
    ]
    handlers: dict[Any, Any] = {HTTPException: _refuse}
    return Starlette(
        routes=routes, middleware=guards, exception_handlers=handlers, lifespan=lifespan
    )
