"""The words that a stage has learned from the emoji, and the nearest ones to those it has not."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence

from imagen_jax.config import DataConfig
from imagen_jax.data import emoji_concepts, emoji_vectors
from imagen_jax.data.captions import PORTIONS
from imagen_jax.data.emoji_colours import BACKGROUNDS, HUES
from imagen_jax.data.emoji_vectors import STYLES, Concept

NEAREST = 3
"""At most so many known words are offered for one that is not known."""
NOT_IN_FIRST_VERSION = frozenset(
    [
        "purple heart",
        "fox",
        "lady beetle",
        "rose",
        "beans",
        "doughnut",
        "birthday cake",
        "soccer ball",
        "bell",
        "television",
    ]
)
"""Labels of the core that version 1 of the data set never showed; its captions had no synonyms."""
_DATA_SET = "captioned_emoji"
_LIKE = 0.8
"""Similarity of spelling from which a word is taken for a known one with an error."""
_WITHOUT_MEANING = frozenset(PORTIONS) | set(
    re.findall(
        r"\w+",
        "a an and at background by color colored colour coloured emoji for from her his image in "
        "is its my of on photo picture some style that the this to two with your",
    )
)
_LOOKS = frozenset(STYLES) | frozenset(BACKGROUNDS)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a stage has been shown with its words.

    Attributes:
        concepts: in emoji order.
        colours: that things were shown in; none where each was shown in its own alone.
        backgrounds: that things were shown on.
        has_synonyms: whether the captions named things by other words than the label too.
        has_pairs: whether two things were shown side by side.
    """

    concepts: tuple[Concept, ...]
    colours: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    has_synonyms: bool = True
    has_pairs: bool = False

    @classmethod
    def of(cls, data: DataConfig) -> "Vocabulary | None":
        """That of a stage that was trained on this data; None where it is not of the emoji."""
        sources = [share.source for share in data.shares]
        found = [_named(source) for source in sources]
        configs = [name for name, _ in filter(None, found)]
        if not configs or len(configs) < len(sources):
            return None
        concepts = emoji_concepts.core_concepts()
        if any(name.startswith("all_") for name in configs):
            concepts = list(emoji_vectors.concepts().values())
        has_synonyms = not all(version.startswith("1.") for _, version in filter(None, found))
        if not has_synonyms:
            concepts = [c for c in concepts if c.label not in NOT_IN_FIRST_VERSION]
        is_varied = any(name.startswith("varied_") for name in configs)
        looks = (tuple(HUES), tuple(BACKGROUNDS)) if is_varied else ((), ())
        has_pairs = any(name.startswith("pairs_") for name in configs)
        return cls(tuple(concepts), *looks, has_synonyms, has_pairs)

    def by_group(self) -> dict[str, list[Concept]]:
        """Unicode's subgroup of emoji -> its concepts."""
        groups: dict[str, list[Concept]] = {}
        for concept in self.concepts:
            groups.setdefault(concept.subgroup, []).append(concept)
        return groups

    def names_of(self, concept: Concept) -> tuple[str, ...]:
        """The label, and what else the captions call the thing."""
        free = emoji_concepts.COLOUR_FREE.get(concept.label)
        return (*self._said(concept), *((free,) if free else ()))

    def shortest_name(self, concept: Concept) -> str:
        """What people are likeliest to type."""
        return min(self._said(concept), key=len)

    def _said(self, concept: Concept) -> tuple[str, ...]:
        synonyms = emoji_concepts.SYNONYMS.get(concept.label, ()) if self.has_synonyms else ()
        return (concept.label, *synonyms)

    def unknown(self, prompt: str) -> list[str]:
        """The words of a prompt that names no known thing, but for colours, styles and the like;
        none where it names one, or nothing at all."""
        words = [word for word in _words(prompt) if word not in _WITHOUT_MEANING | _LOOKS]
        return [] if any(word in self._known for word in words) else list(dict.fromkeys(words))

    def nearest(self, word: str) -> list[str]:
        """The known words that are written alike or, failing that, mean things of the same kind."""
        alike = difflib.get_close_matches(word, self._known, NEAREST, _LIKE)
        return alike or [self.shortest_name(x) for x in _same_kind(word, self.concepts)]

    def warning(self, prompts: Sequence[str], origin: object) -> str | None:
        """A sentence on prompts that name nothing known; None where all do.

        Args:
            origin: what has learned the words.
        """
        unknown = [(prompt, words) for prompt in prompts if (words := self.unknown(prompt))]
        if not unknown:
            return None
        prompt, words = unknown[0]
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        said = "; ".join(map(self._told, words))
        return (
            f"The prompt {prompt!r}{more} names nothing that {origin} was trained on: {said}. "
            "`python -m imagen_jax vocabulary` lists the words that it knows."
        )

    def _told(self, word: str) -> str:
        near = ", ".join(map(repr, self.nearest(word)))
        return f"{word!r} is unknown" + (f", the nearest known words are {near}" if near else "")

    @functools.cached_property
    def _known(self) -> dict[str, None]:
        """Every word of the things' names, in their order."""
        names = [name for concept in self.concepts for name in self.names_of(concept)]
        words = [word for name in names for word in _words(name)]
        return dict.fromkeys(word for word in words if word not in _WITHOUT_MEANING | _LOOKS)


def _named(source: str) -> tuple[str, str] | None:
    """Config and version of the data set that a source names, such as ("varied_64", "2.0.0"), if
    it is the emoji; the version is empty where none is named."""
    found = re.fullmatch(rf"(?:tfds:)?{_DATA_SET}/(\w+)(?::([\d.*]+))?", source)
    return (found[1], found[2] or "") if found else None


def _words(text: str) -> list[str]:
    """Lower-case words, each in the singular as far as its end tells."""
    return [_singular(word) for word in re.findall(r"[^\W_]+(?:[-'’][^\W_]+)*", text.lower())]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word.removesuffix("ies") + "y"
    is_plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word.removesuffix("s") if is_plural else word


@functools.cache
def _meanings() -> Mapping[str, list[Concept]]:
    """Word -> the emoji that have it as a name or keyword, those of the name first."""
    found: dict[str, list[Concept]] = {}
    synonyms = emoji_concepts.SYNONYMS
    for names in (lambda c: [c.label], lambda c: synonyms.get(c.label, ()), lambda c: c.keywords):
        for concept in emoji_vectors.concepts().values():
            for word in {word for name in names(concept) for word in _words(name)}:
                found.setdefault(word, []).append(concept)
    return found


def _same_kind(word: str, concepts: Iterable[Concept]) -> list[Concept]:
    """The things of the subgroup of the first emoji of this word, the nearest in Unicode's order,
    which puts like things together, first."""
    meant = next(iter(_meanings().get(word, ())), None)
    if meant is None:
        return []
    place = {key: index for index, key in enumerate(emoji_vectors.concepts())}
    kin = [concept for concept in concepts if concept.subgroup == meant.subgroup]
    kin.sort(key=lambda concept: abs(place[concept.key] - place[meant.key]))
    return kin[:NEAREST]
