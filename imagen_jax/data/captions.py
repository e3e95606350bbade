"""Captions from what is known of an emoji picture: another wording at every draw."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

STYLE_SHARE = 0.5
"""Share of the captions that name the style."""
KEYWORD_SHARE = 0.25
"""Share of the captions that end in one or two keywords."""
SYNONYM_SHARE = 0.5
"""Share of the captions that say a synonym, of the things that have one."""
PORTION_SHARE = 0.25
"""Share of the captions that name a portion, of the things that come in one."""

PORTIONS = ("slice", "bottle", "loaf")
"""Keywords that become "a slice of ..."."""
NO_ARTICLE = (
    "bacon",
    "baguette bread",
    "bowling",
    "bread",
    "broccoli",
    "butter",
    "canned food",
    "cooked rice",
    "cooking",
    "coral",
    "custard",
    "fire",
    "flatbread",
    "fondue",
    "garlic",
    "ginger root",
    "high voltage",
    "leafy green",
    "meat on bone",
    "oden",
    "popcorn",
    "sake",
    "shaved ice",
    "soap",
    "spaghetti",
    "sushi",
    "tennis",
    "wood",
)
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


def plain_captions(
    label: str, keywords: Sequence[str] = (), colour: str = "", background: str = ""
) -> list[str]:
    """The wordings without a style: bare, with its article, and as a portion."""
    portions = [word for word in PORTIONS if word in keywords and word not in label.split()]
    ground = _ground(background)
    bare, phrase = _coloured(label, colour)
    sliced = [f"a {portion} of {bare}{ground}" for portion in portions]
    return [f"{bare}{ground}", f"{phrase}{ground}", *sliced]


def styled_captions(label: str, style: str, colour: str = "", background: str = "") -> list[str]:
    """The wordings that name the style."""
    ground = _ground(background)
    bare, phrase = _coloured(label, colour)
    return [
        f"{bare}{ground}, {style} style",
        f"{style} {bare}{ground}",
        f"{phrase}{ground}, {style} style",
        f"{phrase}{ground} in {style} style",
    ]


def _coloured(label: str, colour: str) -> tuple[str, str]:
    """("blue apple", "a blue apple"); what has no article gets none with a colour either."""
    if not colour:
        return label, noun_phrase(label)
    bare = f"{colour} {label}"
    return bare, bare if noun_phrase(label) == label else noun_phrase(bare)


def _ground(background: str) -> str:
    return f" on {noun_phrase(f'{background} background')}" if background else ""


@dataclasses.dataclass(frozen=True)
class WordedCaptions:
    """The captions of one picture, worded anew at every draw."""

    label: str
    """What the picture shows."""
    synonyms: tuple[str, ...]
    """What else people call it."""
    keywords: tuple[str, ...]
    """What may be added at the end, where the picture has no colour or background of its own."""
    style: str
    colour: str = ""
    """That the thing is said to have; "" says none."""
    background: str = ""
    """That is named; "" names none."""

    def draw(self, rng: np.random.Generator) -> str:
        """One wording, drawn with `rng`."""
        says_synonym = self.synonyms and rng.random() < SYNONYM_SHARE
        label = plain_quotes(_one_of(self.synonyms, rng) if says_synonym else self.label)
        look = (self.colour, self.background)
        if rng.random() < STYLE_SHARE:
            drawn = _one_of(styled_captions(label, self.style, *look), rng)
        else:
            bare, phrase, *portions = plain_captions(label, self.keywords, *look)
            portion = portions and rng.random() < PORTION_SHARE
            drawn = _one_of(portions if portion else [bare, phrase, phrase], rng)
        keywords = self._added()
        if keywords and rng.random() < KEYWORD_SHARE:
            added = rng.permutation(len(keywords))[: rng.integers(1, 3)]
            drawn = ", ".join([drawn, *(keywords[index] for index in added)])
        return drawn

    def all(self) -> Iterator[str]:
        """Each wording bare, with one keyword, and with two in either order."""
        for label in map(plain_quotes, (self.label, *self.synonyms)):
            look = (self.colour, self.background)
            wordings = plain_captions(label, self.keywords, *look)
            wordings += styled_captions(label, self.style, *look)
            for wording in wordings:
                for count in (0, 1, 2):
                    for added in itertools.permutations(self._added(), count):
                        yield ", ".join([wording, *added])

    def _added(self) -> list[str]:
        """The keywords that may stand at the end: those of a red apple say that it is red."""
        if self.colour or self.background:
            return []
        return [plain_quotes(word) for word in self.keywords]


@dataclasses.dataclass(frozen=True)
class PairCaptions:
    """The captions of a picture of two things side by side."""

    left: tuple[str, ...]
    """The label of the thing on the left, and what else people call it."""
    right: tuple[str, ...]
    style: str

    def draw(self, rng: np.random.Generator) -> str:
        """One wording, drawn with `rng`."""
        left, right = (
            _one_of(names[1:], rng) if names[1:] and rng.random() < SYNONYM_SHARE else names[0]
            for names in (self.left, self.right)
        )
        plain, *styled = pair_captions(left, right, self.style)
        return _one_of(styled, rng) if rng.random() < STYLE_SHARE else plain

    def all(self) -> Iterator[str]:
        """Each wording of each two names."""
        for left, right in itertools.product(self.left, self.right):
            yield from pair_captions(left, right, self.style)


def pair_captions(left: str, right: str, style: str) -> list[str]:
    """The wordings for two things side by side: without the style, then with it."""
    both = " and ".join(noun_phrase(plain_quotes(name)) for name in (left, right))
    return [both, f"{both}, {style} style", f"{both} in {style} style"]


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
