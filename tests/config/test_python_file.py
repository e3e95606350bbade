"""Config files: what is read, and what is said of those that fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import imagen_jax
from imagen_jax.config.python_file import read_config_file
from imagen_jax.errors import UsageError

STAGE = """
from imagen_jax.config import StageConfig, UNetConfig
def get_config():
    return StageConfig(name="mine", resolution={resolution}, unet=UNetConfig())
"""


def test_a_config_file_may_import_its_neighbours(tmp_path):
    directory = tmp_path / "my_own_configs"
    directory.mkdir()
    (directory / "first.py").write_text(STAGE.format(resolution=64))
    (directory / "second.py").write_text("from my_own_configs.first import get_config")
    before = list(sys.path)
    assert read_config_file(directory / "second.py").name == "mine"
    assert sys.path == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("def get_config(:", "SyntaxError: "),
        ("\xff = '", "SyntaxError: "),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config(): return {}['x']", "KeyError: 'x'"),
        ("def get_config(size): return size", "TypeError: .*'size'"),
        ("", "no function get_config"),
        ("get_config = 3", "TypeError: 'int' object is not callable"),
        ("def get_config(): return 3", "returns 3; it must return a StageConfig"),
        (STAGE.format(resolution=63), "resolution is 63"),
    ],
)
def test_what_is_wrong_with_a_config_file_is_named(content, says, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=says) as raised:
        read_config_file(path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_gone_and_lies_at_the_root_is_named():
    with pytest.raises(UsageError, match=r"/no_such_config\.py: FileNotFoundError"):
        read_config_file(Path("/no_such_config.py"))


def test_no_config_waits_for_jax():
    """XLA reads its variables when JAX is imported, and a command sets them after its config."""
    place = str(Path(imagen_jax.__file__).parents[1])
    script = (
        "import sys\n"
        "from imagen_jax.config.python_file import find_config, known_configs, read_config_file\n"
        "for name in known_configs():\n"
        "    read_config_file(find_config(name))\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": place}
    )
