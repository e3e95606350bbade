"""Starts the page's server and stays until it is stopped."""

import contextlib
import ipaddress
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagen_jax.config import StageConfig
from imagen_jax.config.data import Size
from imagen_jax.data.emoji_vectors import STYLES
from imagen_jax.data.emoji_words import Vocabulary
from imagen_jax.errors import UsageError, reason
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.maps import Colour, read_palette
from imagen_jax.pipeline.sizes import stage_sizes
from imagen_jax.serve.command import Given
from imagen_jax.serve.limits import ASPECTS, STEPS, STRENGTHS, Limits

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")
_MOST_CONNECTIONS = 64


def serve(
    cascade: Cascade,
    given: Given,
    limits: Limits,
    *,
    host: str,
    port: int,
    hosts: Sequence[str] = (),
) -> None:
    """Serves the page until Ctrl-C; says where on stdout.

    Args:
        given: the cascade's stages as a command names them.
        host: name or address of this machine to listen at.
        port: 0 takes any that is free.
        hosts: names by which browsers may call the server; none are those of this machine where
            nobody else reaches it, and else any.

    Raises:
        UsageError: the extra `ui` is not installed, the cascade paints from what cannot be typed
            and drawn, the palette cannot be read, or nothing can listen there.
    """
    try:
        import uvicorn

        from imagen_jax.serve.app import make_app
    except ModuleNotFoundError as error:
        raise UsageError(
            f'The page needs {error.name}; install this package with its extra "ui".'
        ) from error
    from imagen_jax.serve.jobs import Queue
    from imagen_jax.serve.painter import CascadePainter

    colours = list(read_palette(given.palette or None) or ())
    check_cascade(cascade, bool(colours))
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imagen-page-")))
        queue = Queue(CascadePainter(cascade), directory, limits)
        names, words = page_names(host, hosts), cascade.stages[0].stored.vocabulary
        about = describe(cascade, limits, colours)
        app = make_app(queue, about, given, limits, names, words)
        config = uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        print(f"The page is at {_address(listening)}; Ctrl-C ends it.", flush=True)
        # So a container is stopped; the directory must go then too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        uvicorn.Server(config).run(sockets=[listening])


def check_cascade(cascade: Cascade, has_palette: bool) -> None:
    """Raises a UsageError where a stage must be told more than a prompt and what can be drawn."""
    for stage in cascade.stages:
        conditions, named = stage.config.conditions, f"{stage.stored.origin} ({stage.config.name})"
        if conditions.classes is not None or conditions.numbers:
            raise UsageError(
                f"{named} is told more than a text and pictures; the page paints from these."
            )
        for picture in conditions.shown:
            if picture.kind == "labels" and not has_palette:
                raise UsageError(
                    f"{named} is shown a map of classes, {picture.name!r}; --palette FILE says in "
                    "which colours it is drawn."
                )
    if has_palette and not any(x["kind"] == "labels" for x in drawn(cascade)):
        raise UsageError("--palette is of a map of classes, which no stage is shown.")


def drawn(cascade: Cascade) -> list[dict[str, str]]:
    """Name and kind of what the stages are shown and a visitor can draw; a mask is that of an
    edit."""
    found = {x.name: x.kind for stage in cascade.stages for x in stage.config.conditions.shown}
    return [{"name": name, "kind": kind} for name, kind in found.items() if kind != "mask"]


def describe(cascade: Cascade, limits: Limits, palette: Sequence[Colour] = ()) -> dict[str, Any]:
    """What the page needs to know: stages with what their configs say, limits and choices.

    Args:
        palette: the colours in which a map of classes is drawn.
    """
    configs = [stage.config for stage in cascade.stages]
    return {
        "stages": [
            {
                "name": config.name,
                "side": config.resolution,
                "steps": config.sampling.num_steps,
                "guidance_scale": config.sampling.guidance_scale,
            }
            for config in configs
        ],
        "reads_text": any(config.conditions.text for config in configs),
        "words": told(cascade.stages[0].stored.vocabulary),
        "max_images": limits.max_images,
        "max_letters": limits.max_letters,
        "aspects": _base_sizes(configs),
        "shown": drawn(cascade),
        "palette": [f"#{bytes(colour).hex()}" for colour in palette],
        "steps": STEPS,
        "strengths": STRENGTHS,
    }


def _base_sizes(configs: Sequence[StageConfig]) -> dict[str, Size]:
    """Aspect -> (height, width) of what the base paints, of those that it can paint."""
    found = {}
    for aspect in ASPECTS:
        with contextlib.suppress(UsageError):
            found[aspect] = stage_sizes(configs, aspect=aspect)[0]
    return found


def told(vocabulary: Vocabulary | None) -> dict[str, Any] | None:
    """The words for the page; of each thing the shortest name."""
    if vocabulary is None:
        return None
    groups = vocabulary.by_group().values()
    return {
        "things": [[vocabulary.shortest_name(concept) for concept in group] for group in groups],
        "colours": vocabulary.colours,
        "backgrounds": vocabulary.backgrounds,
        "styles": STYLES,
    }


def page_names(host: str, hosts: Sequence[str]) -> Sequence[str]:
    """By which names browsers may call the server; arguments as in `serve`."""
    if hosts:
        return hosts
    return (*_LOCAL_NAMES, host) if is_local(host) else ("*",)


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    if not host:  # It would be every address of the machine.
        raise UsageError("--host is ''; name an address, such as 127.0.0.1.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UsageError(f"Nothing can listen at {host}:{port}: {reason(error)}.") from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
