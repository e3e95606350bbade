"""Two sets of pictures for people to choose between: one HTML page that needs nothing else.

As in the paper's human study (section 4.3 and appendix E) raters see the pictures of a prompt by
two models beside each other, and are asked for fidelity and for alignment apart, with three
answers. Sides are drawn at random for each prompt, and nothing in the page says whose pictures they
are: that stands in a key beside it, which whoever counts the answers keeps.
"""

import base64
import dataclasses
import io
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from imagen_jax.errors import UsageError
from imagen_jax.evaluation.pictures import PictureSet, read_picture
from imagen_jax.evaluation.prompt_sets import Prompts
from imagen_jax.storage.digests import read_sealed, sealed
from imagen_jax.storage.files import write_text
from imagen_jax.storage.json_text import shown

Ask = Literal["fidelity", "alignment"]
ASKS: tuple[Ask, ...] = get_args(Ask)
_TEMPLATE = Path(__file__).with_suffix(".html")
_FORMAT = "imagen-jax comparison 1"
_SIDES = ("a", "b")
_QUALITY = 92
"""Of the JPEG pictures in the page."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt in the key of a comparison.

    Attributes:
        left: which set's pictures stand there, "a" or "b".
    """

    prompt: str
    category: str
    left: Literal["a", "b"]

    def __post_init__(self) -> None:
        if self.left not in _SIDES:
            raise UsageError(f"The left side is {shown(self.left)}; it must be a or b.")


@dataclasses.dataclass(frozen=True)
class Key:
    """What the page does not say.

    Attributes:
        comparison: a number that the page and its answers bear.
        names: of the two sets, by "a" and "b".
        questions: by their ids.
    """

    comparison: str
    names: dict[str, str]
    questions: dict[str, Question]


def key_path(page: Path) -> Path:
    """Where the key of a page lies."""
    return page.with_suffix(".key.json")


def write_comparison(a: PictureSet, b: PictureSet, prompts: Prompts, page: Path, side: int) -> int:
    """Writes the page and its key; gives the number of prompts.

    Args:
        a, b: with the same prompts, and as many pictures of each.
        prompts: that say categories; those that are not among them have none.
        page: the HTML file.
        side: pixels of the longer side of pictures in the page, at most.

    Raises:
        UsageError: the sets do not fit together, something cannot be read or written, or there is
            a page whose answers could not be counted any more.
    """
    if key_path(page).exists():
        raise UsageError(
            f"{key_path(page)} is there, without which no answers to its page can be counted; name "
            "another page."
        )
    sets = {name: _by_prompt(pictures) for name, pictures in (("a", a), ("b", b))}
    _check_alike(a, b, *sets.values())
    categories = {prompt.text: prompt.category for prompt in prompts}
    order = list(sets["a"])
    secrets.SystemRandom().shuffle(order)
    questions, shown_ones = {}, []
    for number, prompt in enumerate(order):
        question = Question(prompt, categories.get(prompt, ""), secrets.choice(_SIDES))
        questions[str(number)] = question
        sides = (question.left, "b" if question.left == "a" else "a")
        left, right = ([_data_url(path, side) for path in sets[own][prompt]] for own in sides)
        shown_ones.append(
            {
                "id": str(number),
                "prompt": prompt,
                "category": question.category,
                "left": left,
                "right": right,
            }
        )
    comparison = secrets.token_hex(8)
    names = dict(zip(_SIDES, _names(a.directory.resolve(), b.directory.resolve()), strict=True))
    key = {"format": _FORMAT, **dataclasses.asdict(Key(comparison, names, questions))}
    write_text(page, _page({"comparison": comparison, "questions": shown_ones}))
    write_text(key_path(page), json.dumps(sealed(key), indent=1))
    return len(order)


def _names(*directories: Path) -> list[str]:
    """The directories' own names, or where these are the same their whole paths."""
    names = [directory.name for directory in directories]
    return names if len(set(names)) > 1 else list(map(str, directories))


def _by_prompt(pictures: PictureSet) -> dict[str, list[Path]]:
    """Files of each prompt's pictures, in their order."""
    if not pictures.prompts:
        raise UsageError(
            f"{pictures.directory} holds no manifest.json that says the pictures' prompts; name "
            "them with --prompts."
        )
    found: dict[str, list[Path]] = {}
    for name, prompt in zip(pictures.names, pictures.prompts, strict=True):
        found.setdefault(prompt, []).append(pictures.directory / name)
    return found


def _check_alike(
    a: PictureSet, b: PictureSet, of_a: Mapping[str, Sequence], of_b: Mapping[str, Sequence]
) -> None:
    for prompt in [*of_a, *of_b]:
        counts = [len(found.get(prompt, ())) for found in (of_a, of_b)]
        if counts[0] != counts[1]:
            raise UsageError(
                f"{a.directory} holds {counts[0]} pictures of the prompt {shown(prompt)} and "
                f"{b.directory} {counts[1]}; both must hold as many of each."
            )


def _data_url(path: Path, side: int) -> str:
    """A picture as JPEG in a page, without anything that its file says beside its pixels."""
    image = Image.fromarray(np.ascontiguousarray(read_picture(path)[0]))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"


def _page(data: dict[str, Any]) -> str:
    """The template with data in it; no prompt can end the element that holds them."""
    text = json.dumps(data).replace("<", "\\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", text)


def read_key(path: Path) -> Key:
    """The key of a page.

    Raises:
        UsageError: it is none, or was changed.
    """
    values = read_sealed(path)
    if values.get("format") != _FORMAT:
        raise UsageError(f"{path} is not the key of a comparison.")
    try:
        questions = {number: Question(**asked) for number, asked in values["questions"].items()}
        names = {side: str(values["names"][side]) for side in _SIDES}
        return Key(values["comparison"], names, questions)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not the key of a comparison.") from error
