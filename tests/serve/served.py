"""A page served by a thread of this process, with a tiny cascade, and a client for it."""

import base64
import contextlib
import dataclasses
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

import imagen_jax
from imagen_jax.config import MeshConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.maps import read_palette
from imagen_jax.serve.command import Given
from imagen_jax.serve.jobs import ENDED, Queue
from imagen_jax.serve.limits import Limits
from imagen_jax.serve.painter import CascadePainter
from imagen_jax.serve.run import describe, page_names
from imagen_jax.weights.stage_file import save_stage_file

CONFIGS = {
    "base": tiny.stage(name="tiny_base", sampling={"num_steps": 2, "guidance_scale": 3.0}),
    "sr256": tiny.super_resolution(
        name="tiny_32", low_resolution=16, resolution=32, sampling={"num_steps": 2}
    ),
}
LIMITS = Limits(max_images=2, max_letters=200, max_waiting=2, max_kept=3, max_upload_mb=1)
_SECONDS = 120


def save_stages(directory: Path) -> dict[str, str]:
    """Writes the stages; their files by name."""
    for seed, (name, config) in enumerate(CONFIGS.items()):
        path = directory / f"{name}.safetensors"
        save_stage_file(path, config, tiny.random_params(config, seed), "float32")
    return {name: str(directory / f"{name}.safetensors") for name in CONFIGS}


PALETTE = {"#ffffff": 0, "#e02020": 1, "#1f6fe0": 2}
SHOWN = tiny.stage(
    name="tiny_shown", sampling={"num_steps": 2},
    conditions={"pictures": ("sketch:1", "labels:classes=3", "depth:1"), "picture_dropout": 0.2},
)  # fmt: skip


def save_shown(directory: Path) -> tuple[dict[str, str], str]:
    """Writes a base that is shown pictures, and a palette for its maps."""
    base, palette = directory / "base.safetensors", directory / "palette.json"
    save_stage_file(base, SHOWN, tiny.random_params(SHOWN), "float32")
    palette.write_text(json.dumps(PALETTE))
    return {"base": str(base)}, str(palette)


def load(files: dict[str, str]) -> Cascade:
    """On one device, where a job can end between two steps."""
    return imagen_jax.load_cascade(**files, mesh=make_mesh(MeshConfig(), jax.devices()[:1]))


@contextlib.contextmanager
def serving(
    cascade: Cascade,
    files: dict[str, str],
    directory: Path,
    *,
    paint=None,
    host="127.0.0.1",
    palette="",
) -> Iterator["Client"]:
    """A server at a free port; `paint` takes the place of the painter. It needs the extra `ui`."""
    pytest.importorskip("starlette")
    uvicorn = pytest.importorskip("uvicorn")
    from imagen_jax.serve.app import make_app

    queue = Queue(paint or CascadePainter(cascade), directory, LIMITS)
    names = page_names(host, ())
    words = cascade.stages[0].stored.vocabulary
    about = describe(cascade, LIMITS, list(read_palette(palette or None) or ()))
    given = Given(files, palette=palette)
    app = make_app(queue, about, given, LIMITS, names, words)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one sentence of a refusal."""
        sentence = self.json["error"]
        assert self.status >= 400 and sentence.endswith(".") and len(sentence) < 500, self
        return sentence


class Client:
    """Speaks to the server as a browser would, and as none would."""

    def __init__(self, port: int):
        self.port = port
        self.address = f"http://127.0.0.1:{port}/"

    def __call__(self, method: str, path: str, body=None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            said = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, said, answer.read())

    def order(self, **fields) -> Answer:
        return self.post(json.dumps({"prompt": "a red apple", **fields}))

    def post(self, body) -> Answer:
        return self("POST", "/api/jobs", body, Content_Type="application/json")

    def job(self, name: str) -> dict:
        return self("GET", f"/api/jobs/{name}").json

    def painted(self, **fields) -> dict:
        """The job of an order, once it has ended."""
        answer = self.order(**fields)
        assert answer.status == 202, answer
        return self.ended(answer.json["id"])

    def ended(self, name: str) -> dict:
        until = time.monotonic() + _SECONDS
        while (job := self.job(name))["state"] not in ENDED:
            assert time.monotonic() < until, job
            time.sleep(0.02)
        return job

    def file(self, job: dict, name: str) -> Answer:
        return self("GET", f"/api/jobs/{job['id']}/{name}")


def in_base64(picture: np.ndarray | bytes, kind: str = "PNG") -> str:
    """A file, or a picture as one, as an order holds it."""
    if isinstance(picture, np.ndarray):
        data = io.BytesIO()
        Image.fromarray(picture).save(data, kind)
        picture = data.getvalue()
    return base64.b64encode(picture).decode()
