"""What raters prefer: the answers to a comparison, counted."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imagen_jax.errors import UsageError
from imagen_jax.evaluation.comparison import ASKS, Ask, Key
from imagen_jax.evaluation.tables import table
from imagen_jax.storage.json_text import read_object, shown

NEITHER = "neither"
_SIDES = ("left", NEITHER, "right")
_Z = 1.959963984540054
"""Of a normal distribution 95% lie within so many deviations."""
ALL = "all"


class Vote(NamedTuple):
    """One answer.

    Attributes:
        chosen: "a", "b" or "neither".
    """

    category: str
    ask: Ask
    chosen: str


class Preference(NamedTuple):
    """How often one of three answers was given, with its 95% interval."""

    share: float
    low: float
    high: float


def read_votes(key: Key, files: Sequence[Path]) -> list[Vote]:
    """All answers in the files that raters handed in.

    Raises:
        UsageError: a file is none of this comparison, is not as the page writes it, or has an
            answer that is there already.
    """
    votes, seen = [], set()
    for path in files:
        content = read_object(path)
        if content.get("comparison") != key.comparison:
            raise UsageError(f"{path} does not hold answers to this comparison.")
        for answer in _answers(content, path):
            question, ask, side = (answer.get(name) for name in ("question", "ask", "answer"))
            known = isinstance(question, str) and question in key.questions
            if not known or ask not in ASKS or side not in _SIDES:
                raise UsageError(f"{path} has the answer {shown(answer)}, which no page gives.")
            of = (content.get("rater"), question, ask)
            if of in seen:
                raise UsageError(
                    f"{path} answers question {question} for {ask} a second time for the rater "
                    f"{shown(of[0])}; each is counted once."
                )
            seen.add(of)
            asked = key.questions[question]
            votes.append(Vote(asked.category, ask, _chosen(asked.left, side)))
    return votes


def _answers(content: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    answers, rater = content.get("answers"), content.get("rater")
    if not isinstance(answers, list) or not all(isinstance(x, dict) for x in answers):
        raise UsageError(f"{path} has no list of answers, as the page saves them.")
    if not isinstance(rater, str) or not rater.strip():
        raise UsageError(f"{path} does not say whose answers they are.")
    yield from answers


def _chosen(left: str, side: str) -> str:
    if side == NEITHER:
        return NEITHER
    return left if side == "left" else ("b" if left == "a" else "a")


def interval(count: int, total: int) -> Preference:
    """A share and Wilson's 95% interval (Wilson 1927), each answer taken as a draw of its own.

    centre = (p + z^2 / 2n) / (1 + z^2 / n)
    half = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)
    """
    share, z = count / total, _Z
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / scale
    return Preference(share, max(centre - half, 0.0), min(centre + half, 1.0))


def markdown(key: Key, votes: Sequence[Vote]) -> str:
    """A table: for each category, and all together, how often each answer was given."""
    header = ["", "asked for", "answers", key.names["a"], "indifferent", key.names["b"]]
    categories = sorted({vote.category for vote in votes} - {""})
    groups = [(name, [vote for vote in votes if vote.category == name]) for name in categories]
    rows = [header]
    for name, own in [*groups, (ALL, votes)]:
        for ask in ASKS:
            counts = Counter(vote.chosen for vote in own if vote.ask == ask)
            if counts:
                cells = [_cell(interval(counts[x], counts.total())) for x in ("a", NEITHER, "b")]
                rows.append([name, ask, str(counts.total()), *cells])
    return table(rows)


def _cell(preference: Preference) -> str:
    share, low, high = (f"{100 * x:.1f}" for x in preference)
    return f"{share}% ({low} to {high})"
