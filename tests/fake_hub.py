"""A hub at an address of this machine, which answers `huggingface_hub` as the real one does."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from huggingface_hub import constants

COMMIT = "c" * 40


@dataclasses.dataclass
class Repository:
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    gated: bool = False
    private: bool = False


@dataclasses.dataclass
class Hub:
    """What it holds, and the files that it was asked for."""

    address: str = ""
    repositories: dict[str, Repository] = dataclasses.field(default_factory=dict)
    fetched: list[str] = dataclasses.field(default_factory=list)

    def add(self, name: str, files: dict[str, bytes], **settings: bool) -> None:
        self.repositories[name] = Repository(files, **settings)


def ask(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What HF_ENDPOINT sets where it is set before `huggingface_hub` is imported."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextlib.contextmanager
def running(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """`huggingface_hub` asks this hub, and keeps in `cache` what it gets."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})
    )
    hub.address = f"http://127.0.0.1:{server.server_port}"
    ask(monkeypatch, hub.address)
    settings = {"HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": True}
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "a token")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(tree|revision)/[^/]+)?", path)
        name = file[1] if file else about and about[1]
        if problem := self.problem(name):
            self.answer({}, *problem)
        elif file and file[2] not in ("main", COMMIT, "v1"):
            self.answer({}, 404, "RevisionNotFound")
        elif file:
            self.give(name, file[3])
        else:
            self.tell(name, about[2])

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer a token":
            self.answer({"error": "Invalid username or password."}, 401)
            return
        path = urlparse(self.path).path
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":  # The header of a card.
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [f["path"] for f in json.loads(body)["files"]]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": file, **plain} for file in files]})
        else:
            self.commit(path, body)

    def problem(self, name):
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == "Bearer a token"
        if repository is None or (repository.private and not known):
            return 404, "RepoNotFound"
        return (403, "GatedRepo") if repository.gated else None

    def give(self, name, file):
        content = self.hub.repositories[name].files.get(file)
        if content is None:
            self.answer({}, 404, "EntryNotFound")
            return
        if self.command == "GET":
            self.hub.fetched.append(file)
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def tell(self, name, what):
        private, files = self.hub.repositories[name].private, self.hub.repositories[name].files
        tree = [
            {"type": "file", "path": path, "size": len(x), "oid": "0" * 40}
            for path, x in files.items()
        ]
        siblings = [{"rfilename": path} for path in files]
        about = {"id": name, "sha": COMMIT, "private": private, "siblings": siblings}
        self.answer(tree if what == "tree" else about)

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        # The one is what `huggingface_hub` 1 sends, the other what 2 does.
        private = wanted.get("private") is True or wanted.get("visibility") == "private"
        status = 409 if name in self.hub.repositories else 200
        self.hub.repositories.setdefault(name, Repository(private=private))
        self.answer({"url": f"{self.hub.address}/{name}"}, status)

    def commit(self, path, body):
        name = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path)[1]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.repositories[name].files[line["value"]["path"]] = content
        url = f"{self.hub.address}/{name}/commit/{COMMIT}"
        self.answer({"commitOid": COMMIT, "commitUrl": url, "success": True})

    def answer(self, content, status=200, error=None):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
