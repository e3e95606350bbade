"""The entry points, called in this process as from a shell, and what they leave behind."""

import contextlib
import dataclasses
import importlib.util
import io
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

from imagen_jax.cli import commands as verbs
from imagen_jax.cli import sample, train
from imagen_jax.pipeline import painting
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.prompts import PromptEmbeddings

ROOT = Path(__file__).parents[1]

__all__ = [
    "ROOT", "call", "cut", "largest", "paint_nothing", "refused", "sample", "tool", "train", "tree",
    "verbs",
]  # fmt: skip


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
        warnings.catch_warnings(),
        mock.patch.object(warnings, "_showwarnmsg_impl", _print_warning),
    ):
        ignore_what_users_do_not_see()
        try:
            script.main()
        except SystemExit as end:
            code = end.code
    return Result(code, out.getvalue(), err.getvalue())


def _print_warning(warning: warnings.WarningMessage) -> None:
    """As Python does; pytest would keep it.

    While beartype makes a check in one thread, Python's own way of showing warnings is back in all.
    """
    text = warnings.formatwarning(
        warning.message, warning.category, warning.filename, warning.lineno
    )
    sys.stderr.write(text)


def ignore_what_users_do_not_see() -> None:
    """pytest shows every warning; a script leaves Python's own filters as they are."""
    for category in (DeprecationWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    # Of the tests' own setting: two runs may write to the cache at once.
    warnings.filterwarnings("ignore", "Error .* persistent compilation cache")
    warnings.filterwarnings("error", category=DeprecationWarning, module="imagen_jax")


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


def largest(directory: Path) -> Path:
    """The largest file below a directory."""
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(path: Path) -> None:
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def paint_nothing(monkeypatch) -> None:
    """From now on prompts become zeros and pictures are black at once; nothing is loaded."""

    def embed(cascade, prompts, **_):
        if cascade._stored_prompts is not None:
            return cascade._stored_prompts(prompts)
        text, mask = np.zeros((len(prompts), 1, 1), np.float32), np.ones((len(prompts), 1), bool)
        return [PromptEmbeddings(text, mask, None, "", tuple(prompts))] * len(cascade.stages)

    def paint(stages, steps, inputs, *, num_images, keeper=painting.Keeper(), **_):  # noqa: B008
        for step, said in zip(steps, inputs, strict=True):
            shape = (len(said.names) * num_images, *step.size, 3)
            keeper.begin("")
            keeper.keep(range(shape[0]), np.zeros(shape, np.uint8))
            yield painting.Painted(np.zeros(shape, np.uint8), "")

    monkeypatch.setattr(Cascade, "embed", embed)
    monkeypatch.setattr(painting, "paint", paint)
