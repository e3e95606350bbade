"""Pictures of two emoji side by side: does the judge find each on its side?

The prompts are of pairs that training never shows, in either order.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from imagen_jax.config import StageConfig
from imagen_jax.data import emoji_pairs
from imagen_jax.data.captions import pair_captions
from imagen_jax.data.emoji_concepts import uniform
from imagen_jax.data.emoji_words import Vocabulary
from imagen_jax.evaluation.figures import NAMED
from imagen_jax.evaluation.judge import SMALLEST, Judge

Pictures = UInt8[np.ndarray, "pictures height width 3"]
CASES = 30


@dataclasses.dataclass(frozen=True)
class Two:
    """A prompt, and the keys of the emoji that it names, from the left."""

    prompt: str
    keys: tuple[str, str]


def all_cases() -> list[Two]:
    """`CASES` held-out pairs, in an order drawn by hash, so that a few are a fair choice."""
    pairs = [pair for pair in emoji_pairs.pairs() if emoji_pairs.is_held_out(*pair)]
    pairs.sort(key=lambda pair: uniform("/".join(concept.key for concept in pair), "measured"))
    return [
        Two(pair_captions(left.label, right.label, "")[0], (left.key, right.key))
        for left, right in pairs[:CASES]
    ]


def applies_to(config: StageConfig) -> bool:
    """Was the stage shown pairs, and can the judge read half of what it paints?"""
    known = Vocabulary.of(config.data)
    return known is not None and known.has_pairs and config.resolution >= 2 * SMALLEST


def figures_of(judge: Judge, cases: Sequence[Two], pictures: Pictures) -> dict[str, float]:
    """How often the judge names first what stands on the left, on the right, and both.

    Args:
        pictures: square, of the cases, row by row, and so once a seed.
    """
    side = pictures.shape[1]
    rows = slice(side // 4, 3 * side // 4)
    halves = pictures[:, rows, : side // 2], pictures[:, rows, side // 2 :]
    named = np.stack([judge(half).concepts.argmax(1) for half in halves], axis=1)
    wanted = np.array([[judge.concepts.index(key) for key in case.keys] for case in cases])
    right = named == np.resize(wanted, named.shape)
    shares = [right.all(1).mean(), *right.mean(0)]
    return dict(zip(NAMED, map(float, shares), strict=True))
