"""The page's server, asked as a browser asks it and as an attacker would."""

import base64
import contextlib
import importlib.util
import io
import json
import shlex
import socket
import time
import zipfile

import numpy as np
import pytest
import served
import tiny
from PIL import Image
from scripts import call, refused, sample, tree, verbs

from imagen_jax.serve import run
from imagen_jax.serve.jobs import Cancelled
from imagen_jax.weights.stage_file import save_stage_file

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("starlette", "uvicorn"))),
    reason="The extra ui is not installed.",
)
ORDER = {"stages": 2, "num_images": 2, "seed": 3}
FOREIGN = "http://evil.example"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return served.save_stages(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def cascade(files):
    return served.load(files)


@pytest.fixture(scope="module")
def client(cascade, files, tmp_path_factory):
    with served.serving(cascade, files, tmp_path_factory.mktemp("page")) as client:
        yield client


@pytest.fixture(scope="module")
def done(client):
    return client.painted(**ORDER)


def picture_of(client, job, name):
    answer = client.file(job, name)
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.body)))


@pytest.mark.slow
def test_an_order_is_painted_as_a_call_of_the_cascade_paints_it(client, done, cascade):
    assert done["state"] == "done" and len(done["shown"]) == 2
    pictures = cascade("a red apple", num_images=2, seed=3)
    for name, expected in zip(done["shown"], pictures.stages[-1], strict=True):
        np.testing.assert_array_equal(picture_of(client, done, name), expected)


def test_the_page_says_which_words_are_known_and_notes_a_prompt_without_any(client, done):
    words = client("GET", "/api/about").json["words"]
    assert ["ghost", "robot"] in words["things"] and "noto" in words["styles"]
    assert done["notice"] is None
    job = client.painted(**ORDER | {"stages": 1, "prompt": "a zebra"})
    assert job["state"] == "done" and "'zebra' is unknown" in job["notice"]


def test_the_archive_holds_every_stage_and_the_manifest(client, done):
    answer = client.file(done, "pictures.zip?download")
    assert "attachment" in answer.headers["content-disposition"]
    archive = zipfile.ZipFile(io.BytesIO(answer.body))
    assert {name.rpartition("-")[2] for name in archive.namelist()} == {
        "16.png", "32.png", "contact_sheet.png", "manifest.json", "command.txt",
    }  # fmt: skip
    manifest = json.loads(archive.read("manifest.json"))
    assert [p["prompt"] for p in manifest["pictures"]] == ["a red apple"] * 2
    name = archive.namelist()[0]
    said = json.loads(Image.open(io.BytesIO(archive.read(name))).text["imagen-jax"])
    assert said["seed"] == 3


def run_command(job, directory, monkeypatch):
    """What the job's command leaves in a directory."""
    words = shlex.split(job["command"])
    assert words[:4] == ["python", "-m", "imagen_jax", "sample"]
    monkeypatch.chdir(directory)
    result = call(sample, *words[4:], "--out", "out")
    assert result.code == 0, result.err
    return tree(directory / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {**ORDER, "steps": [4, None], "guidance_scale": [2.5, None], "aspect": "2:3"},
        {"prompt": "-x --seed 'it''s' \"; $HOME `ls`"},
    ],
)
def test_the_command_paints_the_same(client, fields, tmp_path, monkeypatch):
    job = client.painted(**fields)
    left = run_command(job, tmp_path, monkeypatch)
    for name in job["shown"]:
        pixels = np.asarray(Image.open(io.BytesIO(left[name])))
        difference = picture_of(client, job, name).astype(int) - pixels
        assert np.abs(difference).max() <= 1  # The command has eight devices here.


def test_a_picture_is_edited_under_a_mask(client, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 4:9] = 255
    image, mask_text = served.in_base64(picture), served.in_base64(mask)
    job = client.painted(image=image, mask=mask_text)
    painted = picture_of(client, job, job["shown"][0])
    np.testing.assert_array_equal(painted[mask == 0], picture[mask == 0])
    assert np.any(painted[mask > 0] != picture[mask > 0])
    assert job["edits"] == ["image", "mask"]
    np.testing.assert_array_equal(picture_of(client, job, "image.png"), picture)
    np.testing.assert_array_equal(picture_of(client, job, "mask.png"), mask)
    same = client.painted(image=image, strength=0.1)
    assert "--strength 0.1" in same["command"]


@pytest.mark.slow
def test_a_stream_tells_of_steps_and_previews_until_the_end(client):
    job = client.order(**ORDER, steps=[256, 256]).json
    answer = client("GET", f"/api/events?job={job['id']}&job=unknown")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *lines, end = answer.body.decode().strip().split("\n\n")
    told = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert end == "event: end\ndata:" and told[-1]["state"] == "done"
    previews = [one["preview"] for one in told if one["preview"]]
    assert previews and all(len(preview) == 2 for preview in previews)
    kind, _, data = previews[0][0].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size in ((16, 16), (32, 32))
    progress = [one["progress"] for one in told if one["progress"]]
    assert {(p["num_steps"], p["stages"]) for p in progress} == {(256, 2)}


def test_a_job_is_cancelled_and_the_next_is_painted(client):
    job = client.order(steps=[256]).json
    answer = client("POST", f"/api/jobs/{job['id']}/cancel")
    assert answer.status == 200
    ended = client.ended(job["id"])
    assert (ended["state"], ended["files"]) == ("cancelled", [])
    assert client.painted()["state"] == "done"


@pytest.mark.slow
def test_a_visitor_who_leaves_finds_the_pictures_again(client):
    """The stream breaks off; two jobs go on."""
    first, second = client.order(steps=[64]).json, client.order(seed=9).json
    with socket.create_connection(("127.0.0.1", client.port)) as tab:
        tab.sendall(
            f"GET /api/events?job={first['id']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        assert tab.recv(15) == b"HTTP/1.1 200 OK"
    assert [client.ended(job["id"])["state"] for job in (first, second)] == ["done", "done"]


def test_what_a_stage_refuses_is_said_and_ends_nothing(client):
    picture = np.zeros((1, 900, 3), np.uint8)
    failed = client.painted(image=served.in_base64(picture))
    assert failed["state"] == "failed" and "aspect is '900:1'" in failed["error"]
    assert client.painted()["state"] == "done"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[1]", b"\xff\xfe", b'{"prompt": ""}', b'{"prompt": " \\n"}',
        json.dumps({"prompt": "x" * 100_000}), json.dumps({"prompt": "a", "image": "AAAA"}),
    ],
)  # fmt: skip
def test_bad_orders_are_refused_in_a_sentence(client, body):
    answer = client.post(body)
    assert answer.status == 422 and answer.error


def test_a_body_is_read_no_further_than_it_may_be(client):
    assert client.post(b"x" * 1_200_000).status == 413

    sent = []

    def endless():
        for _ in range(10_000):
            sent.append(10_000)
            yield b"x" * 10_000

    with contextlib.suppress(ConnectionError):  # As the client may see it that its body is cut.
        assert client.post(endless()).status == 413
    assert sum(sent) < 50_000_000  # Of 100 MB; what is under way lies in the system's buffers.
    assert client("GET", "/").status == 200


def test_only_json_of_this_page_is_taken(client):
    body = json.dumps({"prompt": "a"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert client("POST", "/api/jobs", body, Content_Type=kind).status == 415
    foreign = {"Content_Type": "application/json", "Origin": FOREIGN}
    assert client("POST", "/api/jobs", body, **foreign).status == 403
    assert client("POST", "/api/jobs", body, **(foreign | {"Origin": "null"})).status == 403
    own = foreign | {"Origin": client.address.rstrip("/")}
    assert client("POST", "/api/jobs", body, **own).status == 202


def test_another_name_of_this_machine_is_refused(client):
    """As when a site's name is made to lead here."""
    for host in ("evil.example", f"evil.example:{client.port}", "localhost.evil.example", ""):
        assert client("GET", "/api/about", Host=host).status == 400
    for host in ("localhost", f"127.0.0.1:{client.port}", "LOCALHOST"):
        assert client("GET", "/api/about", Host=host).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "..", "../..", "%2e%2e", "%2e%2e%2fstages", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd",
        "..%5c..", "manifest.json%00.png", ".", "", "%ff", "../manifest.json", "con", "x" * 5000,
    ],
)  # fmt: skip
def test_no_other_file_can_be_read(client, done, name):
    assert client("GET", f"/api/jobs/{done['id']}/{name}").status in (404, 405, 307)
    assert client("GET", f"/{name}x").status == 404
    assert client("GET", f"/api/jobs/{name}x/manifest.json").status == 404


def test_a_job_is_seen_by_its_name_alone(client, done):
    for path in ("/api/jobs", "/api/jobs/", "/api/events", "/api"):
        assert done["id"] not in client("GET", path).body.decode()


def test_the_page_loads_nothing_from_elsewhere(client):
    for address in ("", "page.js", "page.css", "brush.js", "icon.svg"):
        answer = client("GET", f"/{address}")
        text = answer.body.decode()
        assert answer.status == 200
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
        policy = answer.headers["content-security-policy"]
        loads, _, shows = policy.partition("frame-ancestors")
        assert "default-src 'none'" in loads and "http" not in loads
        assert shows == " 'self' https://huggingface.co"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client("GET", "/api/about").headers["cache-control"] == "no-store"


def test_a_job_is_forgotten_on_demand(client):
    job = client.painted()
    assert client("DELETE", f"/api/jobs/{job['id']}").status == 200
    assert client("GET", f"/api/jobs/{job['id']}").status == 404
    assert client.file(job, job["shown"][0]).status == 404


def test_a_full_queue_says_so(cascade, files, tmp_path):
    def paint(job):
        while not job.unwanted:
            time.sleep(0.01)
        raise Cancelled

    with served.serving(cascade, files, tmp_path, paint=paint) as client:
        answers = [client.order() for _ in range(5)]
        assert [answer.status for answer in answers][:3] == [202] * 3
        assert answers[-1].status == 503 and "wait already" in answers[-1].error


def test_which_names_a_page_answers_to():
    assert "evil.example" not in run.page_names("127.0.0.1", ())
    assert run.page_names("0.0.0.0", ()) == ("*",)
    assert run.page_names("0.0.0.0", ("a.example",)) == ("a.example",)
    assert [run.is_local(x) for x in ("::1", "127.3.2.1", "localhost", "10.0.0.1", "a.b")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_command_refuses_what_it_cannot_serve(files, tmp_path):
    serve = lambda *flags: call(verbs, "serve", *flags, "--base", files["base"])  # noqa: E731
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(serve("--port", port), f"Nothing can listen at 127.0.0.1:{port}: ")
    refused(serve("--port", 70_000), "Nothing can listen at 127.0.0.1:70000")
    refused(serve("--max-waiting", 0), "--max-waiting is 0; it must be positive")
    refused(serve("--embeddings", tmp_path), "--embeddings holds prompts that are known")


def test_a_cascade_that_is_told_more_than_a_text_is_refused(tmp_path):
    config = tiny.told(classes=3)
    save_stage_file(tmp_path / "a.safetensors", config, tiny.random_params(config), "float32")
    refused(call(verbs, "serve", "--base", tmp_path / "a.safetensors"), "is told more than a text")
