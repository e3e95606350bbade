"""The built package, away from the checkout: configs are inside it and its commands run."""

import configparser
import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from scripts import ROOT

import imagen_jax

SOURCES = ("imagen_jax", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE",
           "THIRD_PARTY_NOTICES.md")  # fmt: skip
LARGEST = 95_000_000
"""Bytes of a wheel: what PyPI takes is 100 MB."""


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


def build(source: Path, kind: str) -> Path:
    """The archive that setuptools makes of a directory."""
    hook = f"from setuptools.build_meta import build_{kind}; build_{kind}('built')"
    (source / "built").mkdir()
    subprocess.run([sys.executable, "-c", hook], cwd=source, check=True, capture_output=True)
    [archive] = (source / "built").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made as it is published: from the sdist, which is made from the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    source, unpacked = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("unpacked")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    shutil.unpack_archive(build(source, "sdist"), unpacked, filter="data")
    [top] = unpacked.iterdir()
    return build(top, "wheel")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A directory that holds what the wheel holds."""
    target = tmp_path_factory.mktemp("target")
    zipfile.ZipFile(wheel).extractall(target)
    return target


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {f"imagen_jax/{place}" for place in files_below(ROOT / "imagen_jax")}
    wanted |= {f"imagen_jax/configs/{place}" for place in files_below(ROOT / "configs")}
    assert held == wanted
    assert wheel.stat().st_size <= LARGEST


def files_below(directory: Path) -> set[str]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {p.relative_to(directory).as_posix() for p in paths if "__pycache__" not in p.parts}


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        said = email.message_from_bytes(archive.read(name))
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    assert (said["Name"], said["Version"]) == ("imagen-jax", imagen_jax.__version__)
    needed = [text for text in said.get_all("Requires-Dist") if "extra ==" not in text]
    assert not [text for text in needed if text.startswith(("torch", "tensorflow>", "tensorflow="))]
    assert {Path(name).name for name in licences} >= {"LICENSE", "THIRD_PARTY_NOTICES.md"}


@pytest.mark.slow
def test_an_installed_package_needs_no_checkout(installed, tmp_path):
    entry_points = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "imagen-sample = imagen_jax.cli.program:sample" in entry_points
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


def test_the_citation_names_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {imagen_jax.__version__}" in lines
