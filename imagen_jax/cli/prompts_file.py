"""A file of prompts: one a line, or a table with settings of each. No JAX here."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import to_path

_PROMPT = "prompt"
_TEXTS = ("negative_prompt", "positive_prompt")
"""Columns that hold text, whatever it looks like."""


def read_prompts_file(name: str) -> tuple[list[str], list[dict[str, Any]] | None]:
    """The prompts of a file and, of a .csv, the settings of each.

    A cell that is empty sets nothing. Other cells are read as JSON, such as 7.5 or [3, 1, 1], and
    what is none as text.

    Raises:
        UsageError: the file cannot be read, has no prompt, or a row no prompt of its own.
    """
    try:
        text = to_path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts-file {name} cannot be read: {reason(error)}.") from error
    if name.lower().endswith(".csv"):
        rows = _rows(text, name)
        prompts = [row.pop(_PROMPT) for row in rows]
        each = [{field: _value(field, cell) for field, cell in row.items()} for row in rows]
    else:
        prompts, each = list(filter(None, (line.strip() for line in text.split("\n")))), None
    if not prompts:
        raise UsageError(f"--prompts-file {name} has no prompt; it must hold one a line.")
    return prompts, each


def _rows(text: str, name: str) -> list[dict[str, str]]:
    """The rows that are not blank, each without its empty cells."""
    try:
        # In lines of its own: a prompt may have several, or letters that others end lines with.
        table = csv.DictReader(io.StringIO(text), strict=True, skipinitialspace=True)
        table.fieldnames = [name.strip() for name in table.fieldnames or ()]
        rows = [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise UsageError(f"--prompts-file {name} is no table: {reason(error)}.") from error
    if _PROMPT not in (table.fieldnames or ()):
        raise UsageError(f"--prompts-file {name} has no column {_PROMPT!r} in its first line.")
    return [_cells(row, f"--prompts-file {name}, line {line},") for line, row in rows]


def _cells(row: Mapping[str | None, str | Sequence[str] | None], named: str) -> dict[str, str]:
    if None in row:
        raise UsageError(f"{named} has more cells than the first line.")
    cells = {field: cell.strip() for field, cell in row.items() if cell and cell.strip()}
    if _PROMPT not in cells:
        raise UsageError(f"{named} has no prompt.")
    return cells


def _value(field: str, cell: str) -> Any:
    if field in _TEXTS:
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
