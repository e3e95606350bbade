"""Paint the pictures of docs/ with the shipped cascade: nothing is selected, the seed is 0.

    python tools/make_docs_pictures.py

Writes docs/samples.png (24 prompts) and docs/held_out.png (above: (concept, style) pairs that
training never saw, as their artists drew them; below: what the cascade paints), and prints
the wall time.
"""

import time
from pathlib import Path

import numpy as np

from imagen_jax.data import captioned_emoji, emoji_concepts, emoji_vectors, transforms
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import grid, save_png

DOCS = Path(__file__).parent.parent / "docs"
SEED = 0
CELL = 200
COLUMNS = 6
HELD_OUT = 8
PROMPTS = (
    "a red apple", "a cat face", "a slice of pizza, noto style", "twemoji rocket",
    "a banana", "a lemon", "a strawberry, fluent style", "grapes",
    "a carrot, twemoji style", "an ear of corn", "a hamburger", "an ice cream",
    "a sunflower", "a cactus, noto style", "a red heart, noto style", "a blue heart",
    "a star", "a panda", "a tiger face", "a penguin, twemoji style",
    "an octopus", "a basketball", "a light bulb", "a sailboat",
)  # fmt: skip


def paint(prompts: tuple[str, ...]) -> np.ndarray:
    """The last stage's picture of each prompt."""
    return load_cascade()(prompts, seed=SEED).stages[-1]


def held_out_pairs() -> list[tuple[emoji_vectors.Concept, str]]:
    """The first held-out (concept, style) pairs, in emoji order."""
    pairs = [
        (concept, style)
        for concept in emoji_concepts.core_concepts()
        for style in emoji_vectors.STYLES
        if emoji_concepts.held_out(concept, style) == "pair"
    ]
    return pairs[:HELD_OUT]


def main() -> None:
    start = time.monotonic()
    pictures = paint(PROMPTS)
    rows = range(0, len(PROMPTS), COLUMNS)
    sheet = grid(
        [list(pictures[i : i + COLUMNS]) for i in rows],
        [list(PROMPTS[i : i + COLUMNS]) for i in rows],
        CELL,
    )
    save_png(sheet, DOCS / "samples.png")
    print(f"{len(PROMPTS)} prompts: {time.monotonic() - start:.0f} s")

    pairs = held_out_pairs()
    side = captioned_emoji.RESOLUTIONS[-1]
    drawn = [
        transforms.decode(emoji_vectors.draw(style, concept.key, side), concept.label, side)
        for concept, style in pairs
    ]
    prompts = tuple(f"{concept.label}, {style} style" for concept, style in pairs)
    captions = [["drawn"] * len(pairs), list(prompts)]
    sheet = grid([[np.asarray(x) for x in drawn], list(paint(prompts))], captions, CELL)
    save_png(sheet, DOCS / "held_out.png")


if __name__ == "__main__":
    main()
