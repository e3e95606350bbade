"""Captions from a label, keywords and a style: another wording at every draw."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

STYLE_SHARE = 0.5
"""Share of the captions that name the style."""
KEYWORD_SHARE = 0.25
"""Share of the captions that end in one or two keywords."""
PORTION_SHARE = 0.25
"""Share of the captions that name a portion, of the things that come in one."""

PORTIONS = ("slice", "bottle", "loaf")
"""Keywords that become "a slice of ..."."""
NO_ARTICLE = (
    "bacon", "baguette bread", "bowling", "bread", "broccoli", "butter", "canned food",
    "cooked rice", "cooking", "coral", "custard", "fire", "flatbread", "fondue", "garlic",
    "ginger root", "high voltage", "leafy green", "meat on bone", "oden", "popcorn", "sake",
    "shaved ice", "soap", "spaghetti", "sushi", "tennis", "wood",
)  # fmt: skip
SINGULAR_ENDINGS = ("ss", "us", "is", "ceros")
VOWEL_SOUND_EXCEPTIONS = ("uni", "ewe", "eur", "one", "us")
"""Written with a vowel, spoken with a consonant: a unicorn, a ewe."""
_PLAIN_QUOTES = str.maketrans("’‘“”", "''\"\"")
SILENT_H = ("hour", "heir", "honest")


def noun_phrase(label: str) -> str:
    """`label` with "a" or "an" where English wants one: "an owl", "grapes"."""
    word = label.lower()
    head = re.split(r" (?:with|of|on|and) ", word)[0]
    if word in NO_ARTICLE or (head.endswith("s") and not head.endswith(SINGULAR_ENDINGS)):
        return label
    vowel = word.startswith(tuple("aeiou")) and not word.startswith(VOWEL_SOUND_EXCEPTIONS)
    return f"{'an' if vowel or word.startswith(SILENT_H) else 'a'} {label}"


def plain_captions(label: str, keywords: Sequence[str]) -> list[str]:
    """The wordings without a style: bare, with its article, and as a portion."""
    portions = [word for word in PORTIONS if word in keywords and word not in label.split()]
    return [label, noun_phrase(label), *(f"a {portion} of {label}" for portion in portions)]


def styled_captions(label: str, style: str) -> list[str]:
    """The wordings that name the style."""
    return [
        f"{label}, {style} style",
        f"{style} {label}",
        f"{noun_phrase(label)}, {style} style",
        f"{noun_phrase(label)} in {style} style",
    ]


def caption(label: str, keywords: Sequence[str], style: str, rng: np.random.Generator) -> str:
    """One caption, drawn with `rng`."""
    label = plain_quotes(label)
    if rng.random() < STYLE_SHARE:
        drawn = _one_of(styled_captions(label, style), rng)
    else:
        bare, phrase, *portions = plain_captions(label, keywords)
        wordings = portions if portions and rng.random() < PORTION_SHARE else [bare, phrase, phrase]
        drawn = _one_of(wordings, rng)
    if keywords and rng.random() < KEYWORD_SHARE:
        added = rng.permutation(len(keywords))[: rng.integers(1, 3)]
        drawn = ", ".join([drawn, *(plain_quotes(keywords[index]) for index in added)])
    return drawn


@dataclasses.dataclass(frozen=True)
class WordedCaptions:
    """The captions of one picture, worded anew at every draw."""

    label: str
    keywords: tuple[str, ...]
    style: str

    def draw(self, rng: np.random.Generator) -> str:
        return caption(self.label, self.keywords, self.style, rng)

    def all(self) -> Iterator[str]:
        """Each wording bare, with one keyword, and with two in either order."""
        label, keywords = plain_quotes(self.label), [plain_quotes(word) for word in self.keywords]
        wordings = plain_captions(label, keywords) + styled_captions(label, self.style)
        for wording in wordings:
            for count in (0, 1, 2):
                for added in itertools.permutations(keywords, count):
                    yield ", ".join([wording, *added])


def _one_of(wordings: Sequence[str], rng: np.random.Generator) -> str:
    return wordings[int(rng.integers(len(wordings)))]


def all_captions(label: str, keywords: Sequence[str], styles: Sequence[str]) -> Iterator[str]:
    """Every wording of the concept, and a last one that lists all of its keywords."""
    label = plain_quotes(label)
    yield from plain_captions(label, keywords)
    for style in styles:
        yield from styled_captions(label, style)
    yield ", ".join([label, *map(plain_quotes, keywords)])


def plain_quotes(text: str) -> str:
    """`text` with the quotes that a keyboard has."""
    return text.translate(_PLAIN_QUOTES)
