"""Config files: Python with a `get_config`. No JAX here."""

import runpy
import sys
from pathlib import Path

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError, reason


def read_config_file(path: Path) -> StageConfig:
    """What the `get_config` of a config file returns.

    Raises:
        UsageError: there is none, it returns something else, or the file's code fails.
    """
    root = path.resolve().parent.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    sys.path.insert(0, str(root))  # It may import its neighbours.
    try:
        variables = runpy.run_path(str(path))
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
