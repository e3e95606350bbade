"""The fixed prompts that a cascade is measured by, and what each of them should show.

They depend on nothing but the data set and its held-out splits, never on any weights.
"""

import dataclasses
import hashlib
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imagen_jax.data import emoji_colours, emoji_concepts
from imagen_jax.data.captions import plain_captions, plain_quotes, styled_captions
from imagen_jax.data.emoji_vectors import STYLES, Concept
from imagen_jax.storage import digests

Kind = Literal["seen pairs", "held-out pairs", "held-out colours", "held-out backgrounds"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEEN_PAIRS = 100
HELD_OUT_COLOURS = 60
HELD_OUT_BACKGROUNDS = 30
Pair = tuple[Concept, str]
"""A concept, and the style, colour or background that is asked for."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A prompt and what it should show.

    Attributes:
        concept: key of the emoji.
        style: "" where the prompt names none; so are `colour` and `background`.
    """

    kind: Kind
    prompt: str
    concept: str
    style: str = ""
    colour: str = ""
    background: str = ""

    def true_styles(self) -> list[str]:
        """Those in which the emoji can be drawn as the prompt says."""
        named = [self.style] if self.style else STYLES
        return [
            style
            for style in named
            if not self.colour or emoji_colours.turned(style, self.concept, self.colour)
        ]

    def true_picture(self, style: str, side: int) -> UInt8[np.ndarray, "{side} {side} 3"]:
        """What the prompt says, drawn from the vector of one of `true_styles`."""
        png = emoji_colours.draw(style, self.concept, self.colour, self.background, side)
        return np.asarray(Image.open(io.BytesIO(png)))


def all_cases() -> list[Case]:
    """Kind after kind; within a kind in an order drawn by hash, so that a few are a fair choice."""
    pairs = [(concept, style) for concept in emoji_concepts.core_concepts() for style in STYLES]
    seen = [pair for pair in pairs if not emoji_concepts.held_out(*pair)]
    held_out = [pair for pair in pairs if emoji_concepts.held_out(*pair)]
    colours = _drawn("colour", _held_out_colours(), _takes_colour, HELD_OUT_COLOURS)
    grounds = _drawn("background", _held_out_backgrounds(), _differs, HELD_OUT_BACKGROUNDS)
    return [
        *(_styled("seen pairs", *pair) for pair in _drawn("seen", seen, count=SEEN_PAIRS)),
        *(_styled("held-out pairs", *pair) for pair in _drawn("pair", held_out)),
        *(_coloured(*pair) for pair in colours),
        *(_on_ground(*pair) for pair in grounds),
    ]


def first_of_each(cases: Sequence[Case], count: int) -> list[Case]:
    """The first `count` cases of each kind."""
    return [case for kind in KINDS for case in [c for c in cases if c.kind == kind][:count]]


def digest(cases: Iterable[Case]) -> str:
    """SHA-256 of the cases, prompts and all, in their order."""
    return digests.digest({"cases": [dataclasses.asdict(case) for case in cases]})


def _drawn(
    purpose: str,
    pairs: Iterable[Pair],
    fits: Callable[[Concept, str], bool] = lambda *_: True,
    count: int | None = None,
) -> Iterable[Pair]:
    """The first `count` of the pairs that fit, or all, in the order of their hashes.

    Whether one fits, which takes its drawing, is asked of no more than are needed.
    """

    def rank(pair: Pair) -> bytes:
        return hashlib.sha256(f"{purpose}:{pair[0].key}/{pair[1]}".encode()).digest()

    return itertools.islice((p for p in sorted(pairs, key=rank) if fits(*p)), count)


def _held_out_colours() -> list[Pair]:
    """(concept, colour) of which training sees no picture.

    Where two concepts share the word that takes the colour, as the apples do, neither's is seen.
    """
    core = emoji_concepts.core_concepts()

    def is_unseen(noun: str, colour: str) -> bool:
        sharing = [concept for concept in core if emoji_concepts.colourable_label(concept) == noun]
        return all(_is_held_out(concept, colour=colour) for concept in sharing)

    return [
        (concept, colour)
        for concept in core
        for colour in emoji_colours.HUES
        if (noun := emoji_concepts.colourable_label(concept)) and is_unseen(noun, colour)
    ]


def _held_out_backgrounds() -> list[Pair]:
    """(concept, background) of which training sees no picture."""
    return [
        (concept, ground)
        for concept in emoji_concepts.core_concepts()
        for ground in emoji_colours.BACKGROUNDS
        if _is_held_out(concept, background=ground)
    ]


def _takes_colour(concept: Concept, colour: str) -> bool:
    """Is there a picture of it in this colour, and is that not the colour it has by nature?"""
    drawable = (emoji_colours.turned(style, concept.key, colour) for style in STYLES)
    return _differs(concept, colour) and any(drawable)


def _differs(concept: Concept, colour: str) -> bool:
    """Has it by nature another colour, in every style?"""
    return all(emoji_colours.natural_colour(style, concept.key) != colour for style in STYLES)


def _is_held_out(concept: Concept, colour: str = "", background: str = "") -> bool:
    """Whether it is held out in all styles in which the concept is seen at all."""
    reasons = {emoji_concepts.held_out(concept, style, colour, background) for style in STYLES}
    return "" not in reasons


def _styled(kind: Kind, concept: Concept, style: str) -> Case:
    prompt = styled_captions(plain_quotes(concept.label), style)[2]
    return Case(kind, prompt, concept.key, style=style)


def _coloured(concept: Concept, colour: str) -> Case:
    noun = plain_quotes(emoji_concepts.colourable_label(concept))
    prompt = plain_captions(noun, colour=colour)[1]
    return Case("held-out colours", prompt, concept.key, colour=colour)


def _on_ground(concept: Concept, ground: str) -> Case:
    prompt = plain_captions(plain_quotes(concept.label), background=ground)[1]
    return Case("held-out backgrounds", prompt, concept.key, background=ground)
