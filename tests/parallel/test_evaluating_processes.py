"""Two processes measure pictures as one does: each picture once, killed and gone on with too."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from feature_networks import write_clip_vocabulary
from PIL import Image
from scripts import ROOT

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("evaluate_worker.py")
GOLDEN = ROOT / "tests" / "golden"
COUNT = 45
"""More than DINOv2's 32 features, in twelve parts of which the last has one picture."""
TIMEOUT = 300
WORDS = ("red", "apple", "a red apple", "zoo", "tree")


@contextlib.contextmanager
def processes(count: int, *arguments, wait: float = 0) -> Iterator[list[subprocess.Popen]]:
    """So many that run one command; none outlives the context."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    running = []
    for number in range(count):
        command = [sys.executable, WORKER, str(wait), *map(str, arguments)]
        if count > 1:
            command += [
                "--distributed.coordinator", address, "--distributed.num-processes", str(count),
                "--distributed.process-id", str(number),
            ]  # fmt: skip
        running.append(
            subprocess.Popen(
                command, env=os.environ | {"PYTHONPATH": path}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def run(count: int, *arguments) -> list[str]:
    """What each of so many processes says."""
    with processes(count, *arguments) as running:
        said = [process.communicate(timeout=TIMEOUT)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count, said
    return said


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Painted pictures, references by both networks, and CLIP's directory."""
    root = tmp_path_factory.mktemp("evaluated")
    rng, rows = np.random.default_rng(0), []
    for name in ("true", "painted"):
        (root / name).mkdir()
        for number in range(COUNT):
            low = rng.integers(0, 256, (3, 3, 3)).astype(np.uint8)
            Image.fromarray(low).resize((20, 20)).save(root / name / f"{number:03}.png")
    for number in range(COUNT):
        rows.append({"prompt": WORDS[number % len(WORDS)], "files": [f"{number:03}.png"]})
    manifest = {"seed": 5, "pictures": rows, "stages": [{}]}
    (root / "painted" / "manifest.json").write_text(json.dumps(manifest))
    for network in ("clip", "dinov2"):
        shutil.copytree(GOLDEN / network, root / network)
    write_clip_vocabulary(root / "clip")
    for network, recipe in (("clip", "cmmd"), ("dinov2", "fd-dinov2")):
        weights = ("--weights", root / network, "--recipe", recipe)
        run(1, "stats", root / "true", root / f"true-{network}", *weights)
    return root


def flags(place: Path, network: str, out: Path) -> list:
    """Of clip the distance and the score, of dinov2 all that there is."""
    score = ["--clip-score"] if network == "clip" else []
    reference = ["--reference", place / f"true-{network}", "--weights", place / network]
    return ["evaluate", place / "painted", "--out", out, *reference, *score]


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("network", ["clip", "dinov2"])
def test_two_processes_measure_as_one_also_after_a_kill(network, place, tmp_path):
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    run(1, *flags(place, network, one))
    first, second = run(2, *flags(place, network, two))
    assert "| figure | value |" in first and "| figure" not in second
    assert results(two) == results(one)
    found = results(two)
    assert found["features"][0]["pictures"]["count"] == COUNT
    assert len(found["figures"]) == {"clip": 2, "dinov2": 3}[network]

    features = killed / network
    with processes(2, *flags(place, network, killed), wait=1) as running:
        deadline = time.monotonic() + TIMEOUT
        while not [*features.glob("part-*")]:
            assert all(process.poll() is None for process in running)
            assert time.monotonic() < deadline
            time.sleep(0.01)
    made = {path: path.stat().st_mtime_ns for path in features.glob("part-*")}
    assert 0 < len(made) < 12 and not (killed / "results.json").exists()
    run(2, *flags(place, network, killed))
    assert results(killed) == results(one)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len([*features.glob("part-*")]) == 12
