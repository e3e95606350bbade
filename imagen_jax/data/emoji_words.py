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
    """

    concepts: tuple[Concept, ...]
    colours: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: DataConfig) -> "Vocabulary | None":
        """That of a stage that was trained on this data; None where it is not of the emoji."""
        sources = [share.source for share in data.shares]
        configs = [name for source in sources for name in _configs(source)]
        if not configs or len(configs) < len(sources):
            return None
        concepts = emoji_concepts.core_concepts()
        if any(name.startswith("all_") for name in configs):
            concepts = list(emoji_vectors.concepts().values())
        is_varied = any(name.startswith("varied_") for name in configs)
        return cls(tuple(concepts), *((tuple(HUES), tuple(BACKGROUNDS)) if is_varied else ()))

    def by_group(self) -> dict[str, list[Concept]]:
        """Unicode's subgroup of emoji -> its concepts."""
        groups: dict[str, list[Concept]] = {}
        for concept in self.concepts:
            groups.setdefault(concept.subgroup, []).append(concept)
        return groups

    def unknown(self, prompt: str) -> list[str]:
        """The words of a prompt that names no known thing, but for colours, styles and the like;
        none where it names one, or nothing at all."""
        words = [word for word in _words(prompt) if word not in _WITHOUT_MEANING | _LOOKS]
        return [] if any(word in self._known for word in words) else list(dict.fromkeys(words))

    def nearest(self, word: str) -> list[str]:
        """The known words that are written alike or, failing that, mean things of the same kind."""
        alike = difflib.get_close_matches(word, self._known, NEAREST, _LIKE)
        return alike or _same_kind(word, self.concepts)

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
        names = [name for concept in self.concepts for name in names_of(concept)]
        words = [word for name in names for word in _words(name)]
        return dict.fromkeys(word for word in words if word not in _WITHOUT_MEANING | _LOOKS)


def names_of(concept: Concept) -> tuple[str, ...]:
    """The label, and what else the captions call the thing."""
    free = emoji_concepts.COLOUR_FREE.get(concept.label)
    synonyms = emoji_concepts.SYNONYMS.get(concept.label, ())
    return (concept.label, *synonyms, *((free,) if free else ()))


def shortest_name(concept: Concept) -> str:
    """What people are likeliest to type."""
    return min((concept.label, *emoji_concepts.SYNONYMS.get(concept.label, ())), key=len)


def _configs(source: str) -> list[str]:
    """The data set's config that a source names, if it is the emoji: `varied_64`."""
    found = re.fullmatch(rf"(?:tfds:)?{_DATA_SET}/(\w+)(?::[\d.*]+)?", source)
    return [found[1]] if found else []


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
    for names in (lambda c: [c.label], lambda c: c.keywords):
        for concept in emoji_vectors.concepts().values():
            for word in {word for name in names(concept) for word in _words(name)}:
                found.setdefault(word, []).append(concept)
    return found


def _same_kind(word: str, concepts: Iterable[Concept]) -> list[str]:
    """The things of the subgroup of the first emoji of this word, the nearest in Unicode's order,
    which puts like things together, first."""
    meant = next(iter(_meanings().get(word, ())), None)
    if meant is None:
        return []
    place = {key: index for index, key in enumerate(emoji_vectors.concepts())}
    kin = [concept for concept in concepts if concept.subgroup == meant.subgroup]
    kin.sort(key=lambda concept: abs(place[concept.key] - place[meant.key]))
    return [shortest_name(concept) for concept in kin[:NEAREST]]
