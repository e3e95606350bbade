"""A page for stages that are shown drawings: sketches, and maps of classes by a palette."""

import importlib.util
import io
import json
import zipfile

import numpy as np
import pytest
import served
from PIL import Image
from scripts import call, refused, verbs

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("starlette", "uvicorn"))),
    reason="The extra ui is not installed.",
)
RED, BLUE = (224, 32, 32), (31, 111, 224)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return served.save_shown(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def cascade(stages):
    return served.load(stages[0])


@pytest.fixture(scope="module")
def client(cascade, stages, tmp_path_factory):
    files, palette = stages
    directory = tmp_path_factory.mktemp("page")
    with served.serving(cascade, files, directory, palette=palette) as client:
        yield client


def map_of_colours():
    pixels = np.full((16, 16, 3), 255, np.uint8)
    pixels[:8], pixels[8:, :8] = RED, BLUE
    return pixels


def drawing():
    pixels = np.full((16, 16, 3), 255, np.uint8)
    pixels[4:12, 4:12] = 0
    return pixels


def test_the_page_is_told_what_can_be_drawn_and_in_which_colours(client):
    about = client("GET", "/api/about").json
    assert about["shown"] == [
        {"name": "sketch", "kind": "grey"},
        {"name": "labels", "kind": "labels"},
        {"name": "depth", "kind": "grey"},
    ]
    assert about["palette"] == list(served.PALETTE)
    assert about["aspects"]["1:1"] == [16, 16] and about["aspects"]["4:3"] == [14, 18]


def test_what_is_drawn_is_shown_to_the_stage_and_can_be_painted_again(client, cascade):
    shown = {"labels": map_of_colours(), "sketch": drawing(), "depth": drawing()}
    texts = {name: served.in_base64(pixels) for name, pixels in shown.items()}
    job = client.painted(seed=5, shown=texts)
    assert job["state"] == "done" and sorted(job["edits"]) == sorted(shown)
    numbers = np.repeat([[1] * 16, [2] * 8 + [0] * 8], 8, axis=0).astype(np.uint8)
    told = shown | {"labels": numbers}
    expected = cascade("a red apple", seed=5, pictures=told).stages[0][0]
    name = job["shown"][0]
    painted = np.asarray(Image.open(io.BytesIO(client.file(job, name).body)))
    np.testing.assert_array_equal(painted, expected)
    assert (expected != cascade("a red apple", seed=5).stages[0][0]).any()
    with zipfile.ZipFile(io.BytesIO(client.file(job, "pictures.zip").body)) as archive:
        for kind, pixels in shown.items():
            kept = np.asarray(Image.open(archive.open(f"{kind}.png")))
            np.testing.assert_array_equal(kept, pixels)
        command = archive.read("command.txt").decode()
    assert "--labels labels.png --sketch sketch.png --maps depth=depth.png --palette " in command


def test_nothing_need_be_drawn(client):
    job = client.painted()
    assert job["state"] == "done" and job["edits"] == []
    assert "--palette" not in job["command"] and "--maps" not in job["command"]


def test_what_no_stage_is_shown_or_no_picture_is_refused(client):
    picture = served.in_base64(drawing())
    refusals = {
        "What the stages are shown is 'cat'; it must be one of sketch, labels, depth.": picture,
        "The picture 'sketch': picture undecodable": served.in_base64(b"GIF"),
        "The picture 'depth' is not in base64.": "!",
    }
    for (says, text), name in zip(refusals.items(), ("cat", "sketch", "depth"), strict=True):
        answer = client.order(shown={name: text})
        assert answer.status == 422 and says in answer.error
    assert "shown.sketch" in client.order(shown={"sketch": 3}).error


def test_a_drawing_of_another_format_or_colour_fails_in_a_sentence(client):
    job = client.painted(shown={"sketch": served.in_base64(drawing()[:8])})
    assert job["state"] == "failed" and "is of another ratio" in job["error"]
    job = client.painted(shown={"labels": served.in_base64(drawing())})
    assert job["state"] == "failed" and "the palette has no class for it" in job["error"]


def test_a_palette_and_a_map_belong_together(stages, tmp_path):
    serve = lambda *flags: call(verbs, "serve", *flags)  # noqa: E731
    refused(serve("--base", stages[0]["base"]), "--palette FILE says in which colours it is drawn")
    base = served.save_stages(tmp_path)["base"]
    refused(serve("--base", base, "--palette", stages[1]), "which no stage is shown")
    (tmp_path / "palette.json").write_text(json.dumps({"red": 1}))
    flags = ("--base", stages[0]["base"], "--palette", tmp_path / "palette.json")
    refused(serve(*flags), "it must map colours such as")
