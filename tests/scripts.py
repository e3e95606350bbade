"""The entry points, called in this process as from a shell, and what they leave behind."""

import contextlib
import dataclasses
import importlib.util
import io
import sys
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import sample  # noqa: E402
import train  # noqa: E402
from imagen_jax import __main__ as verbs  # noqa: E402

__all__ = ["ROOT", "blank_paint", "call", "refused", "sample", "tool", "train", "tree", "verbs"]


@dataclasses.dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def call(script, *arguments) -> Result:
    """`script.main()` with these arguments; any exception but an exit comes through."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["script", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            script.main()
        except SystemExit as end:
            code = end.code
    return Result(code, out.getvalue(), err.getvalue())


def refused(result: Result, *says: str) -> None:
    """One line on stderr that says all of `says`, nothing on stdout, exit code 2."""
    assert (result.code, result.out) == (2, ""), result
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    for text in says:
        assert text in result.err


def tool(name: str, directory: str = "tools"):
    """The script tools/NAME.py, or one of another directory, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / directory / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Tyro looks for its dataclasses there.
    spec.loader.exec_module(module)
    return module


def tree(directory: Path) -> dict[str, bytes | None]:
    """All that is below a directory: path -> bytes, None for a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def blank_paint(steps, prompts, *, num_images, **_):
    """In the place of `cascade.paint`: black pictures at once."""
    for step in steps:
        yield np.zeros((len(prompts) * num_images, step.side, step.side, 3), np.uint8)
