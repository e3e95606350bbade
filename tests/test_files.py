"""Files that are whole or not there."""

from pathlib import Path

import pytest

from imagen_jax.errors import UsageError
from imagen_jax.files import replacing, write_text


def names(directory):
    return sorted(path.name for path in directory.rglob("*"))


def test_a_file_is_replaced_and_its_directory_is_made(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "ünicode"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names(tmp_path) == ["a.txt", "new"]


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
