"""Features in parts: each picture once, killed and gone on with, and nothing mixed up."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from scripts import cut

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import feature_files
from imagen_jax.evaluation.feature_files import make_features, open_features
from imagen_jax.evaluation.features import open_network
from imagen_jax.evaluation.pictures import open_pictures, read_picture
from imagen_jax.evaluation.reading import Reading
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.storage.digests import sealed

GOLDEN = Path(__file__).parents[1] / "golden"
COUNT = 11


@pytest.fixture(scope="module")
def network():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return open_network("clip", GOLDEN / "clip", mesh, Reading("centre", "bicubic"))


@pytest.fixture
def pictures(tmp_path):
    directory, rng = tmp_path / "pictures", np.random.default_rng(0)
    directory.mkdir()
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (22 + number, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"{number:02}.png")
    return open_pictures(directory)


@pytest.fixture(autouse=True)
def four_pictures_a_part(monkeypatch):
    monkeypatch.setattr(feature_files, "PART", 4)


def make(pictures, network, out):
    return make_features(pictures, network, out, batch_size=3)


def test_every_picture_is_there_once_and_in_order(pictures, network, tmp_path):
    made = make(pictures, network, tmp_path / "out")
    read = [network.reading(read_picture(pictures.directory / name)[0]) for name in pictures.names]
    expected = np.concatenate([batch for one in read for batch in network([one], 1)])
    assert [len(part) for part in made.parts()] == [4, 4, 3]
    np.testing.assert_allclose(made.features(), expected, rtol=1e-5, atol=1e-5)
    assert made.count == made.moments().count == COUNT
    covariance = np.cov(made.features().astype(np.float64).T)
    np.testing.assert_allclose(made.moments().covariance, covariance, rtol=1e-9, atol=1e-12)


def test_what_is_there_is_not_made_again(pictures, network, tmp_path, monkeypatch):
    whole = make(pictures, network, tmp_path / "out")
    features, sha = whole.features(), whole.pictures_sha256()
    (tmp_path / "out" / "part-00001.safetensors").unlink()
    with pytest.raises(UsageError, match="unfinished: 1 of its 3 parts are missing"):
        open_features(tmp_path / "out")
    seen = []
    monkeypatch.setattr(
        feature_files, "read_picture", lambda path: (seen.append(path.name), read_picture(path))[1]
    )
    again = make(pictures, network, tmp_path / "out")
    assert seen == ["04.png", "05.png", "06.png", "07.png"]
    np.testing.assert_array_equal(again.features(), features)
    assert again.pictures_sha256() == sha


def test_processes_make_parts_of_their_own(pictures, network, tmp_path, monkeypatch):
    """One after the other here, so that the first finds its work unfinished."""
    out = tmp_path / "out"
    expected = make(pictures, network, tmp_path / "whole").features()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(feature_files.distributed, "wait_for_all", lambda what: None)
    monkeypatch.setattr(feature_files.distributed, "leader_does", lambda action: action())
    with pytest.raises(UsageError, match="1 of its 3 parts are missing"):
        make(pictures, network, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "about.json", "part-00000.safetensors", "part-00002.safetensors"
    ]  # fmt: skip
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    np.testing.assert_array_equal(make(pictures, network, out).features(), expected)


def test_other_pictures_and_other_recipes_are_refused(pictures, network, tmp_path):
    out = tmp_path / "out"
    make(pictures, network, out)
    reading = dataclasses.replace(network.reading, resizer="lanczos")
    with pytest.raises(UsageError, match="holds features of others: their reading is .*bicubic"):
        make(pictures, dataclasses.replace(network, reading=reading), out)
    with pytest.raises(UsageError, match="holds features of others: their weights is"):
        make(pictures, dataclasses.replace(network, weights="0" * 64), out)
    (pictures.directory / "00.png").rename(pictures.directory / "99.png")
    with pytest.raises(UsageError, match="holds features of others: their listing is"):
        make(open_pictures(pictures.directory), network, out)


def test_other_pictures_of_the_same_names_and_sizes_are_refused(network, tmp_path):
    """Bitmaps of one size are files of one size, whatever they show."""
    directory, out = tmp_path / "bitmaps", tmp_path / "out"
    directory.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(directory / f"{number:02}.bmp")
    make(open_pictures(directory), network, out)
    Image.new("RGB", (20, 20), "white").save(directory / "09.bmp")
    with pytest.raises(UsageError, match="other pictures under the same names"):
        make(open_pictures(directory), network, out)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "x"}, {"network": "vgg"}, {"network": []}, {"weights": None}, {"count": "4"},
        {"count": 0}, {"count": 10**15}, {"count": True}, {"width": -1}, {"width": 10**9},
        {"name": 3}, {"listing": {}}, {"reading": 3}, {"reading": {}},
    ],
)  # fmt: skip
def test_what_is_said_of_features_may_be_anyones(pictures, network, tmp_path, changes):
    about = feature_files._about(pictures, network) | changes
    (tmp_path / "about.json").write_text(json.dumps(sealed(about)))
    with pytest.raises(UsageError, match=r"about.json does not say what features of"):
        open_features(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"side": "299"}, {"resizer": ["box"]}, {"first_side": -1}, {"over_128": "no"}]
)
def test_a_reading_may_be_anyones(pictures, network, tmp_path, changes, no_type_checks):
    about = feature_files._about(pictures, network)
    about["reading"] |= changes
    (tmp_path / "about.json").write_text(json.dumps(sealed(about)))
    with pytest.raises(UsageError, match=f"about.json: The {next(iter(changes))} is"):
        open_features(tmp_path)


def test_a_directory_of_something_else_is_left_alone(pictures, network, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="holds something else than features"):
        make(pictures, network, tmp_path / "out")
    with pytest.raises(UsageError, match="holds no features: there is no about.json"):
        open_features(tmp_path / "out")


def test_a_log_of_the_command_itself_may_lie_there(pictures, network, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stats.log").write_text("begun")
    assert make(pictures, network, tmp_path / "out").count == len(pictures)
    assert (tmp_path / "out" / "stats.log").read_text() == "begun"


def test_a_bad_picture_stops_it_and_no_part_is_half_written(pictures, network, tmp_path):
    cut(pictures.directory / "05.png")
    with pytest.raises(UsageError, match="05.png cannot be read as a picture"):
        make(open_pictures(pictures.directory), network, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "about.json", "part-00000.safetensors"
    ]  # fmt: skip


def test_damage_is_seen(pictures, network, tmp_path):
    out = tmp_path / "out"
    made = make(pictures, network, out)
    part = out / "part-00002.safetensors"
    content = part.read_bytes()
    part.write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(UsageError, match="part-00002.safetensors: features is damaged"):
        made.moments()
    part.write_bytes((out / "part-00000.safetensors").read_bytes())
    with pytest.raises(UsageError, match=r"has shape \(4, 16\)"):
        made.moments()
    about = json.loads((out / "about.json").read_text())
    (out / "about.json").write_text(json.dumps(about | {"count": 8}))
    with pytest.raises(UsageError, match="does not match its sha256"):
        open_features(out)
    del about["sha256"]
    (out / "about.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match="it has no sha256"):
        open_features(out)
