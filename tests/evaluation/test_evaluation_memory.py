"""What measuring takes of memory: as much for 30,000 pictures as for 300. Linux only.

    pytest -m slow -s tests/evaluation/test_evaluation_memory.py

prints the figures of docs/figures.md.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import ROOT

FEW, MANY = 300, 30_000
SLACK = 40 * 2**20
"""The names of the pictures, and whole parts of features in place of a small one."""
WEIGHTS = Path(__file__).parents[1] / "golden" / "dinov2"
MEASURE = """
import sys
from pathlib import Path
from imagen_jax.cli import commands
from imagen_jax.evaluation import features

features._DINOV2_SIDE = 28
commands.main()
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@pytest.fixture
def pictures(tmp_path):
    """Directories of so many pictures of 64 pixels; those of the larger are the same ones again."""
    rng = np.random.default_rng(0)
    few, many = tmp_path / str(FEW), tmp_path / str(MANY)
    few.mkdir()
    many.mkdir()
    for number in range(FEW):
        pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(few / f"{number:03}.png")
    for number in range(MANY):
        os.link(few / f"{number % FEW:03}.png", many / f"{number:05}.png")
    return few, many


def peak(*arguments) -> int:
    """Bytes at most of a process that runs a command of ours."""
    command = [sys.executable, "-c", MEASURE, *map(str, arguments), "--weights", WEIGHTS]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.splitlines()[-1])


def test_the_peak_is_that_of_a_few_pictures(pictures, tmp_path):
    few, many = pictures
    recipe = ("--recipe", "fd-dinov2")
    peak("stats", few, tmp_path / "reference", *recipe)
    of_few, of_many, of_many_again = (
        peak(
            "evaluate", directory, "--out", tmp_path / "out" / directory.name,
            "--reference", tmp_path / "reference", "--measures", "fd-dinov2",
        )
        for directory in (few, many, many)
    )  # fmt: skip
    print(
        f"\n{FEW} pictures: at most {of_few / 1e6:,.0f} MB; {MANY:,}: {of_many / 1e6:,.0f} MB, and "
        f"{of_many_again / 1e6:,.0f} MB where their features are there already"
    )
    assert max(of_many, of_many_again) < of_few + SLACK
