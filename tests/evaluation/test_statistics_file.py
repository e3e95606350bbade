"""Statistics in pytorch-fid's form: written, read, and what is none."""

import io
import zipfile

import numpy as np
import pytest

from imagen_jax.errors import UsageError
from imagen_jax.evaluation import statistics_file
from imagen_jax.evaluation.distances import frechet_distance
from imagen_jax.evaluation.moments import moments_of
from imagen_jax.evaluation.statistics_file import open_statistics, write_statistics


@pytest.fixture(autouse=True)
def four_features(monkeypatch):
    shapes = {"mu": (4,), "sigma": (4, 4)}
    monkeypatch.setattr(statistics_file, "_SHAPES", shapes)


def draws(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(20, 4)).astype(np.float32) + seed


def test_what_is_written_is_read_by_numpy_and_here(tmp_path):
    path, moments = tmp_path / "a.npz", moments_of(draws(0))
    write_statistics(path, moments)
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive) == {"mu", "sigma"}
        np.testing.assert_allclose(archive["mu"], draws(0).mean(0), rtol=1e-5)
        np.testing.assert_allclose(archive["sigma"], np.cov(draws(0).T), rtol=1e-5)
    other = moments_of(draws(1))
    read = open_statistics(path, "pytorch-fid")
    assert frechet_distance(other, read.moments()) == frechet_distance(other, moments)
    assert read.account()["recipe"] == "pytorch-fid" and len(read.account()["sha256"]) == 64


def saved(path, **arrays):
    good = {"mu": np.zeros(4), "sigma": np.eye(4)}
    np.savez(path, **{name: x for name, x in (good | arrays).items() if x is not None})
    return path


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mu": None}, "no item named 'mu.npy'"),
        ({"mu": np.zeros(3)}, "shape"),
        ({"sigma": np.zeros((4, 3))}, "shape"),
        ({"sigma": np.full((4, 4), np.nan)}, "not finite"),
        ({"sigma": np.arange(16.0).reshape(4, 4)}, "not symmetric"),
        ({"mu": np.array(["a"] * 4)}, "mu is"),
        ({"mu": np.array([None] * 4)}, "allow_pickle=False"),
    ],
)
def test_what_is_no_statistics_is_refused(tmp_path, arrays, says):
    path = saved(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=f"a.npz holds no statistics as pytorch-fid .*{says}"):
        open_statistics(path, "pytorch-fid")


def test_other_files_and_recipes_of_other_networks_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(b"nothing")
    for missing in (path, tmp_path / "b.npz"):
        with pytest.raises(UsageError, match="holds no statistics"):
            open_statistics(missing, "clean-fid")
    with pytest.raises(UsageError, match="recipe is 'cmmd', of clip"):
        open_statistics(saved(path), "cmmd")
    monkeypatch.setattr(statistics_file, "_LARGEST", 100)
    with pytest.raises(UsageError, match="mu is larger than"):
        open_statistics(path, "clean-fid")


def test_a_size_that_the_header_alone_claims_is_refused(tmp_path):
    path, header = tmp_path / "a.npz", io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (2**25, 2**25)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(saved(path, mu=None), "a") as archive:
        archive.writestr("mu.npy", header.getvalue())
    with pytest.raises(UsageError, match="a.npz holds no statistics as pytorch-fid writes them"):
        open_statistics(path, "pytorch-fid")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_byte_changed_anywhere_is_refused_or_changes_nothing(tmp_path, save):
    path, good = tmp_path / "a.npz", {"mu": np.arange(4.0), "sigma": np.eye(4)}
    save(path, **good)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for flipped in (1, 8, 0xFF):  # Each bit of compression methods and flags among them.
            damaged = bytearray(whole)
            damaged[place] ^= flipped
            path.write_bytes(damaged)
            try:
                read = open_statistics(path, "pytorch-fid")
            except UsageError:
                continue
            np.testing.assert_array_equal(read.moments().mean, good["mu"])
            np.testing.assert_array_equal(read.moments().covariance, good["sigma"])
