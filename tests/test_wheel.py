"""The built package, away from the checkout: configs are inside it and its commands run."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from scripts import ROOT

SOURCES = ("imagen_jax", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE",
           "THIRD_PARTY_NOTICES.md")  # fmt: skip


def test_setup_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    inside = [path.parent.relative_to(ROOT) for path in ROOT.glob("imagen_jax/**/__init__.py")]
    configs = [path.parent.relative_to(ROOT) for path in ROOT.glob("configs/**/__init__.py")]
    assert sorted(listed) == sorted(
        [".".join(path.parts) for path in inside if "configs" not in path.parts]
        + [".".join(("imagen_jax", *path.parts)) for path in configs]
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory that holds what the wheel holds."""
    pytest.importorskip("setuptools", minversion="77")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('wheel')"
    (source / "wheel").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [wheel] = (source / "wheel").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


@pytest.mark.slow
def test_an_installed_package_needs_no_checkout(installed, tmp_path):
    entry_points = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "imagen-sample = imagen_jax.cli.sample:main" in entry_points
    assert not (installed / "configs").exists()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *added()])}

    def run(*arguments):
        command = [sys.executable, "-m", "imagen_jax", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)

    assert "  deepfloyd_if/i_m" in run("train", "--help").stdout
    missing = run("train", "configs/emoji_sr_256.py")
    assert missing.returncode == 2 and "--workdir is missing" in missing.stderr
    found = run("sample", "a red apple", "--steps", "1", "--sr256", "none")
    assert (found.returncode, found.stdout) == (0, "out/00-a-red-apple-0-64.png\n"), found.stderr


def added():
    """Of PYTHONPATH what is not the checkout."""
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(ROOT)]
