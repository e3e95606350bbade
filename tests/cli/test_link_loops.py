"""Links that lead to each other, where a verb is given a directory."""

import pytest
from scripts import call, refused, verbs

from imagen_jax.errors import UsageError
from imagen_jax.storage.files import absolute, replacing_directory


@pytest.fixture
def loop(tmp_path):
    path = tmp_path / "loop"
    path.symlink_to(path)
    return path


def test_a_loop_has_a_path_and_is_not_replaced(loop):
    assert absolute(loop) == loop
    says = "loop/new cannot be written"
    with pytest.raises(UsageError, match=says), replacing_directory(loop / "new"):
        pass
    assert loop.is_symlink()


def test_a_loop_is_not_converted(loop, tmp_path):
    refused(call(verbs, "convert", "t5", loop, tmp_path / "a.safetensors"), "loop")
    assert list(tmp_path.iterdir()) == [loop]
