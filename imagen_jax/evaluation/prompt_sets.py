"""Sets of prompts as they are published, from files that the user brings."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.json_text import parse_object, read_object
from imagen_jax.text.tokenizer import one_line

Prompts = tuple[str, ...]
SEED = 0
"""Of all that is drawn."""
_COLUMNS = ("prompt", "prompts")


def read_prompt_set(source: str, count: int | None = None) -> Prompts:
    """The prompts that `source`, KIND:FILE, names, each on one line.

    Args:
        source: `prompts:FILE` has one a line; `table:FILE` is a .csv or .tsv with a column Prompt
            or Prompts, as DrawBench's and PartiPrompts' are; `geneval:FILE` has a JSON object with
            a prompt in each line; `coco:FILE` has COCO's captions, of which one is drawn for each
            picture, and of `coco-all:FILE` all are taken.
        count: so many of them are drawn, each at most once; None takes all in their order.

    Raises:
        UsageError: no such kind, a file that is none of it, or too few prompts in it.
    """
    kind, _, file = source.partition(":")
    if kind not in _READ or not file:
        raise UsageError(
            f"The prompts are {source!r}; they must be one of {', '.join(_READ)}, a colon and a "
            "file."
        )
    path = Path(file).expanduser()
    prompts = [one_line(text) for text in _READ[kind](path)]
    if "" in prompts:
        raise UsageError(f"{path} has a prompt without text, number {prompts.index('') + 1}.")
    if not prompts:
        raise UsageError(f"{path} holds no prompt.")
    if count is None:
        return tuple(prompts)
    if not 0 < count <= len(prompts):
        raise UsageError(f"{count} prompts are asked for; {path} holds {len(prompts)}.")
    drawn = np.random.default_rng(SEED).permutation(len(prompts))[:count]
    return tuple(prompts[number] for number in drawn)


def _lines(path: Path) -> list[str]:
    return [line for line in _text(path).split("\n") if line.strip()]


def _table(path: Path) -> list[str]:
    """PartiPrompts' quotes are letters, and DrawBench's stand round texts with commas."""
    by_tabs = path.suffix.lower() == ".tsv"
    quoting = csv.QUOTE_NONE if by_tabs else csv.QUOTE_MINIMAL
    lines = _text(path).splitlines(keepends=True)
    try:
        rows = list(csv.reader(lines, delimiter="\t" if by_tabs else ",", quoting=quoting))
    except csv.Error as error:
        raise UsageError(f"{path} cannot be read as a table: {reason(error)}.") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    columns = [header.index(name) for name in _COLUMNS if name in header]
    if not columns:
        raise UsageError(f"{path} has no column called Prompt or Prompts.")
    rows = [row for row in rows[1:] if any(field.strip() for field in row)]
    return [row[columns[0]] if len(row) > columns[0] else "" for row in rows]


def _geneval(path: Path) -> list[str]:
    lines = [line for line in _text(path).splitlines() if line.strip()]
    return [_string(parse_object(line, str(path)), "prompt", path) for line in lines]


def _coco(path: Path) -> list[str]:
    """One caption of each picture, pictures by their numbers."""
    by_picture: dict[Any, list[str]] = {}
    for annotation in _annotations(path):
        captions = by_picture.setdefault(annotation.get("image_id"), [])
        captions.append(_string(annotation, "caption", path))
    if not all(type(number) is int for number in by_picture):
        raise UsageError(f"{path} has a caption without a whole number as its image_id.")
    rng = np.random.default_rng(SEED)
    return [captions[rng.integers(len(captions))] for _, captions in sorted(by_picture.items())]


def _coco_all(path: Path) -> list[str]:
    return [_string(annotation, "caption", path) for annotation in _annotations(path)]


def _annotations(path: Path) -> Sequence[dict[str, Any]]:
    annotations = read_object(path).get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(x, dict) for x in annotations):
        raise UsageError(f"{path} has no list of annotations, as COCO's captions have.")
    return annotations


def _string(entry: dict[str, Any], name: str, path: Path) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{path} has {name} {json.dumps(value)[:100]}; it must be text.")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text: {reason(error)}.") from error


_READ: dict[str, Callable[[Path], list[str]]] = {
    "prompts": _lines,
    "table": _table,
    "geneval": _geneval,
    "coco": _coco,
    "coco-all": _coco_all,
}
