"""Files that are whole or not there, on this machine and in buckets."""

import dataclasses
import importlib.util
import secrets
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from imagen_jax.checkpoints.directory import claim_directory, read_config
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.sheets import save_png
from imagen_jax.storage.files import absolute, beside_logs, replacing, to_path, write_text
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.tensors import write_tensors


def names(directory):
    return sorted(path.name for path in directory.rglob("*"))


def test_a_file_is_replaced_and_its_directory_is_made(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "ünicode"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names(tmp_path) == ["a.txt", "new"]


def test_a_link_that_waits_where_the_file_is_written_is_not_followed(tmp_path, monkeypatch):
    """Even if the name could be foreseen."""
    victim, path = tmp_path / "victim", tmp_path / "a.txt"
    victim.write_text("kept")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "known")
    (tmp_path / ".a.txt.known.tmp").symlink_to(victim)
    with pytest.raises(UsageError, match=r"a\.txt cannot be written: File exists\.$"):
        write_text(path, "text")
    assert victim.read_text() == "kept" and not path.exists()


def test_no_two_temporary_names_are_alike_and_all_are_hidden(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        assert one != other and one.read_bytes() == b""
        assert all(x.name.startswith(".a.") and x.suffix == ".tmp" for x in (one, other))


def test_a_file_has_the_mode_that_others_have_and_may_have_a_long_name(tmp_path):
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / ("n" * 255), "text")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1 and len(names(tmp_path)) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("x")])
def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("kept")
    with pytest.raises((UsageError, KeyError)) as raised, replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    said = {KeyError: "'x'", UsageError: f"{path} cannot be written: No space left on device."}
    assert str(raised.value) == said[raised.type]
    assert path.read_text() == "kept" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("path", [".", "/", "..", "directory", "file/a.txt"])
def test_a_path_that_can_be_no_file_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError, match=f"{Path(path)} cannot be written: .+"):
        write_text(Path(path), "text")
    assert names(tmp_path) == ["directory", "file"] and (tmp_path / "file").read_text() == "kept"


def test_files_of_a_bucket_are_replaced_whole(bucket):
    path = bucket / "deep" / "text"
    for text in ("one", "two"):
        write_text(path, text)
        assert path.read_text() == text
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("three")
        raise ZeroDivisionError
    assert [file.name for file in path.parent.iterdir()] == ["text"]
    assert path.read_text() == "two"


def test_a_training_directory_may_lie_in_a_bucket(bucket):
    config = tiny.stage()
    claim_directory(bucket, config)
    claim_directory(bucket, config)
    assert read_config(bucket) == config
    with pytest.raises(UsageError, match="gs://bucket/run was trained with name"):
        claim_directory(bucket, dataclasses.replace(config, name="other"))
    save_png(np.zeros((2, 3, 3), np.uint8), bucket / "samples" / "x.png")
    with (bucket / "samples" / "x.png").open("rb") as file:
        assert Image.open(file).size == (3, 2)


def test_tensors_in_a_bucket_are_read_from_a_copy_that_goes_with_them(
    bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write_tensors(bucket / "x.safetensors", {"a": {"b": np.ones(3)}}, "float32", {})
    _, tensors = open_file(bucket / "x.safetensors")
    for _ in range(2):
        assert tensors["a.b"].whole("float32").tolist() == [1, 1, 1]
        assert [path.name for path in tmp_path.glob("*/*")] == ["x.safetensors"]
    del tensors
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="gs://bucket/run/y.safetensors cannot be read"):
        open_file(bucket / "y.safetensors")


def test_a_bucket_without_gcsfs_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match='gs://bucket needs gcsfs; .* extra "gcs"'):
        to_path("gs://bucket")


def test_a_bucket_that_cannot_be_reached_is_refused(bucket, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no credentials")

    monkeypatch.setattr(MemoryFileSystem, "exists", fail)
    with pytest.raises(UsageError, match="gs://bucket cannot be reached: no credentials"):
        to_path("gs://bucket")


def test_other_paths_are_local():
    assert to_path("a/b") == Path("a/b")
    assert absolute(Path("a")) == Path.cwd() / "a"


def test_what_shells_and_machines_leave_counts_as_nothing(tmp_path):
    assert beside_logs(tmp_path / "nowhere") == beside_logs(tmp_path) == ""
    logs = ("a.log", "b.txt", "7.out", "7.err", "A.LOG", "a.log.1", "log", "stdout", "job.o17")
    for name in (*logs, "job.e17", ".DS_Store", "Thumbs.db", "lost+found"):
        (tmp_path / name).touch()
    assert beside_logs(tmp_path) == ""
    for name in ("catalog", "model.o", "my.outline"):
        (tmp_path / name).touch()
        assert beside_logs(tmp_path) == name
        (tmp_path / name).unlink()
    (tmp_path / "notes.md").touch()
    assert beside_logs(tmp_path) == beside_logs(tmp_path / "notes.md") == "notes.md"
