"""Sets of prompts as they are published, from files that the user brings."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.config import DataConfig
from imagen_jax.data.annotations import is_blank
from imagen_jax.data.records import BrokenRecord
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import with_home
from imagen_jax.storage.json_text import parse_object, read_object, shown
from imagen_jax.text.tokenizer import one_line

SEED = 0
"""Of all that is drawn."""
_COLUMNS = ("prompt", "prompts")
_CATEGORY = "category"
_TABLES = (".csv", ".tsv")


class Prompt(NamedTuple):
    """A prompt on one line, and what its file says of it.

    Attributes:
        category: "" where it has none.
        metadata: GenEval's JSON object, with which it checks the pictures.
    """

    text: str
    category: str = ""
    metadata: str = ""


Prompts = tuple[Prompt, ...]


def texts_of(prompts: Prompts) -> tuple[str, ...]:
    """The prompts alone."""
    return tuple(prompt.text for prompt in prompts)


def read_prompt_set(source: str, count: int | None = None, split: str = "") -> Prompts:
    """The prompts that `source`, KIND:FILE, names.

    Args:
        source: `prompts:FILE` has one a line; `table:FILE` is a .csv or .tsv with a column Prompt
            or Prompts, as DrawBench's and PartiPrompts' are, and its kind need not be said;
            `geneval:FILE` has a JSON object with a prompt in each line; `coco:FILE` has COCO's
            captions, of which one is drawn for each picture, and of `coco-all:FILE` all are taken;
            `data:SOURCE` is a data set as data.source of train.py, of which one caption is drawn
            for each picture.
        count: so many of them are drawn, each at most once; None takes all in their order.
        split: of a data set of tfds; "" is that which is trained on.

    Raises:
        UsageError: no such kind, a file that is none of it, or too few prompts in it.
    """
    kind, _, place = source.partition(":")
    if not place and Path(source).suffix.lower() in _TABLES:
        kind, place = "table", source
    if kind not in (*_READ, _DATA) or not place:
        raise UsageError(
            f"The prompts are {source!r}; they must be one of {', '.join((*_READ, _DATA))}, a "
            "colon and a file or data set."
        )
    if split and kind != _DATA:
        raise UsageError(f"The split is {split!r}; {source} has none, only a data set has.")
    found = _data(place, split) if kind == _DATA else _READ[kind](with_home(Path(place)))
    prompts = tuple(prompt._replace(text=one_line(prompt.text)) for prompt in found)
    blank = map(is_blank, texts_of(prompts))
    if number := next(itertools.compress(itertools.count(1), blank), 0):
        raise UsageError(f"{place} has a prompt without text, number {number}.")
    if not prompts:
        raise UsageError(f"{place} holds no prompt.")
    if count is None:
        return prompts
    if not 0 < count <= len(prompts):
        raise UsageError(f"{count} prompts are asked for; {place} holds {len(prompts)}.")
    drawn = np.random.default_rng(SEED).permutation(len(prompts))[:count]
    return tuple(prompts[number] for number in drawn)


def _data(source: str, split: str) -> list[Prompt]:
    """One caption of each picture; broken records have none."""
    config = DataConfig(source=source, **({"split": split} if split else {}))
    records, rng, prompts = open_source(config), np.random.default_rng(SEED), []
    for index in range(len(records)):
        try:
            captions = records.metadata(index).captions
        except BrokenRecord:
            continue
        if captions is None:
            raise UsageError(f"{source} has no captions, of which prompts are drawn.")
        prompts.append(Prompt(captions.draw(rng)))
    return prompts


def _lines(path: Path) -> list[Prompt]:
    return [Prompt(line) for line in _text(path).split("\n") if line.strip()]


def _table(path: Path) -> list[Prompt]:
    """PartiPrompts' quotes are letters, and DrawBench's stand round texts with commas."""
    by_tabs = path.suffix.lower() == ".tsv"
    quoting = csv.QUOTE_NONE if by_tabs else csv.QUOTE_MINIMAL
    text = io.StringIO(_text(path))  # In lines of its own, of which a prompt may have several.
    try:
        rows = list(csv.reader(text, delimiter="\t" if by_tabs else ",", quoting=quoting))
    except csv.Error as error:
        raise UsageError(f"{path} cannot be read as a table: {reason(error)}.") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    columns = [header.index(name) for name in _COLUMNS if name in header]
    if not columns:
        raise UsageError(f"{path} has no column called Prompt or Prompts.")
    columns = [columns[0], header.index(_CATEGORY) if _CATEGORY in header else len(header)]
    rows = [row for row in rows[1:] if any(field.strip() for field in row)]
    return [Prompt(*(row[x] if x < len(row) else "" for x in columns)) for row in rows]


def _geneval(path: Path) -> list[Prompt]:
    def prompt(line: str) -> Prompt:
        entry = parse_object(line, str(path))
        tag = entry.get("tag")
        category = tag if isinstance(tag, str) else ""
        return Prompt(_string(entry, "prompt", path), category, json.dumps(entry))

    return [prompt(line) for line in _text(path).split("\n") if line.strip()]


def _coco(path: Path) -> list[Prompt]:
    """One caption of each picture, pictures by their numbers."""
    by_picture: dict[int, list[str]] = {}
    for annotation in _annotations(path):
        number = annotation.get("image_id")
        if type(number) is not int:
            raise UsageError(f"{path} has a caption without a whole number as its image_id.")
        by_picture.setdefault(number, []).append(_string(annotation, "caption", path))
    rng = np.random.default_rng(SEED)
    drawn = [captions[rng.integers(len(captions))] for _, captions in sorted(by_picture.items())]
    return [Prompt(caption) for caption in drawn]


def _coco_all(path: Path) -> list[Prompt]:
    return [Prompt(_string(annotation, "caption", path)) for annotation in _annotations(path)]


def _annotations(path: Path) -> Sequence[dict[str, Any]]:
    annotations = read_object(path).get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(x, dict) for x in annotations):
        raise UsageError(f"{path} has no list of annotations, as COCO's captions have.")
    return annotations


def _string(entry: dict[str, Any], name: str, path: Path) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{path} has {name} {json.dumps(value)[:100]}; it must be text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{path} has {name} {shown(value)}: {reason(error)}.") from error
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text: {reason(error)}.") from error


_READ: dict[str, Callable[[Path], list[Prompt]]] = {
    "prompts": _lines,
    "table": _table,
    "geneval": _geneval,
    "coco": _coco,
    "coco-all": _coco_all,
}
_DATA = "data"
