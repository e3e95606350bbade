"""Config files: Python with a `get_config`; those of the project and a user's own. No JAX here."""

import ast
import difflib
import runpy
import sys
from pathlib import Path

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.hub import stage_path

_INSTALLED = Path(__file__).parents[1] / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "configs"
"""The project's config files: inside the installed package, or beside it in a checkout."""


def known_configs() -> dict[str, str]:
    """Name -> docstring of every config; those of a directory are called DIRECTORY/NAME."""
    files = sorted(path for path in CONFIGS.rglob("*.py") if path.stem != "__init__")
    return {_name(path): config_docstring(path) for path in files}


def _name(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def config_docstring(path: Path) -> str:
    """The docstring of a config file, empty for what is no Python: only who asks hears of that."""
    try:
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (SyntaxError, ValueError):
        return ""


def find_config(name: str) -> Path:
    """The file of a config: one of the project's by its name, or a user's own by its path.

    The name may be spelt as a file or a module: configs/tiny_64.py and configs.tiny_64 are
    tiny_64, wherever the project's files are.

    Raises:
        UsageError: there is no such config.
    """
    known = known_configs()
    if name in known:
        return CONFIGS / f"{name}.py"
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    plain = _plain_name(name)
    if plain in known:
        return CONFIGS / f"{plain}.py"
    similar = difflib.get_close_matches(plain, known, n=1)
    hint = f", but there is {similar[0]}" if similar else ""
    raise UsageError(
        f"There is no config {name!r}{hint}; the configs are {', '.join(known)}, and a file of "
        "your own is named by its path, such as my/config.py."
    )


def stage_or_config(text: str) -> AnyPath:
    """The path of a stage or a config file; of a config of the project its name will do.

    A stage on the hub is fetched.
    """
    path = stage_path(text)
    named = _plain_name(text)
    is_name = isinstance(path, Path) and not path.exists() and named in known_configs()
    return CONFIGS / f"{named}.py" if is_name else path


def _plain_name(name: str) -> str:
    """configs/NAME.py, configs.NAME and the like -> NAME."""
    plain = name.removeprefix("./").removesuffix(".py").replace("\\", "/").replace(".", "/")
    return plain.removeprefix("configs/")


def read_config_file(path: Path) -> StageConfig:
    """What the `get_config` of a config file returns.

    Raises:
        UsageError: there is none, it returns something else, or the file's code fails.
    """
    root = path.resolve().parent.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    # It may import its neighbours: relative to it, or by their directory's name.
    name = ".".join(path.resolve().relative_to(root).with_suffix("").parts)
    sys.path.insert(0, str(root))
    try:
        variables = runpy.run_path(str(path), run_name=name)
        if "get_config" not in variables:
            raise UsageError(f"{path} is no config file: it has no function get_config.")
        config = variables["get_config"]()
    except UsageError:
        raise
    except Exception as error:  # Whatever a user's code may raise.
        raise UsageError(f"{path}: {type(error).__name__}: {reason(error)}.") from error
    finally:
        sys.path.pop(0)
    if not isinstance(config, StageConfig):
        raise UsageError(f"{path}: get_config returns {config!r}; it must return a StageConfig.")
    return config
