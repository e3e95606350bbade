"""Two processes of four devices paint what one process of eight paints; the first one writes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import ROOT, call, sample, tree

from imagen_jax.weights.stage_file import save_stage_file

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("sample_worker.py")
PROMPTS = ("a red apple", "a cat face", "rocket")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stages")
    base, larger = directory / "base.safetensors", directory / "sr.safetensors"
    config = tiny.stage(sampling={"num_steps": 2, "guidance_scale": 3.0})
    save_stage_file(base, config, tiny.random_params(config), "float32")
    config = tiny.super_resolution(low_resolution=16, resolution=32, sampling={"num_steps": 2})
    save_stage_file(larger, config, tiny.random_params(config), "float32")
    return [*PROMPTS, "--base", base, "--sr256", larger, "--num-images", 3, "--batch-size", 4]


def pair(arguments, *flags) -> list[tuple[int, str]]:
    """Exit code and output of sample.py in two processes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % taken.getsockname()[1]  # noqa: UP031
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, *map(str, (*arguments, *flags)), "--distributed.coordinator",
             address, "--distributed.num-processes", "2", "--distributed.process-id", str(number)],
            env=os.environ | {"PYTHONPATH": path}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for number in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def pixels(directory: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path), int) for path in directory.glob("*.png")}


@pytest.mark.parametrize("split", [1, 2], ids=["pictures", "heights"])
def test_two_processes_paint_as_one(split, arguments, tmp_path):
    flags = ["--split-height", split]
    assert call(sample, *arguments, *flags, "--out", tmp_path / "one").code == 0
    first, second = pair(arguments, *flags, "--out", tmp_path / "two")
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    ours, theirs = pixels(tmp_path / "two"), pixels(tmp_path / "one")
    assert list(ours) == list(theirs) and len(ours) == 2 * 9 + 1
    assert max(np.abs(ours[name] - theirs[name]).max() for name in ours) <= 1
    assert "00-a-red-apple-0-32.png" in first[1] and ".png" not in second[1]

    # A picture that is gone is painted again, to the same bytes.
    before, gone = tree(tmp_path / "two"), tmp_path / "two" / "02-rocket-2-32.png"
    gone.unlink()
    again = pair(arguments, *flags, "--out", tmp_path / "two", "--resume")
    assert [code for code, _ in again] == [0, 0], again
    assert tree(tmp_path / "two") == before


def test_what_the_first_process_cannot_write_ends_both(arguments, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"seed": 5}))
    for code, text in pair(arguments, "--out", tmp_path, "--resume"):
        assert code == 2 and "is of another run" in text and "Traceback" not in text, text


def test_the_first_process_writes_the_previews_and_tells_if_it_cannot(arguments, tmp_path):
    out = tmp_path / "out"
    first, second = pair(arguments, "--preview", "--out", out)
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    pictures = {path.stem for path in out.glob("*-*.png")}
    assert {path.stem for path in out.glob("*.gif")} == pictures and len(pictures) == 18
    assert not [path for path in tree(out) if path.startswith(".")]

    (tmp_path / "full" / "00-a-red-apple-0-16.gif").mkdir(parents=True)
    for code, text in pair(arguments, "--preview", "--out", tmp_path / "full"):
        assert code == 2 and "00-a-red-apple-0-16.gif" in text and "Traceback" not in text, text
