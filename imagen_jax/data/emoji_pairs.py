"""Two emoji side by side: which, and how they are drawn.

Both are drawn at half of the picture's side, at half of its height, on white. A pair of concepts
is held out in either order and in all styles.
"""

import io
from collections.abc import Iterator

from PIL import Image

from imagen_jax.data import emoji_concepts, emoji_vectors
from imagen_jax.data.emoji_vectors import Concept

Pair = tuple[Concept, Concept]
"""The left one and the right one."""
PARTNERS = 12
"""On the right of each concept on the left."""
HELD_OUT = 0.12
"""Share of the pairs that are held out."""


def pairs() -> Iterator[Pair]:
    """Each concept of the core beside `PARTNERS` others, drawn by hash."""
    core = emoji_concepts.core_concepts()
    for left in core:
        others = [right for right in core if right.label != left.label]
        others.sort(key=lambda right: emoji_concepts.uniform(f"{left.key}/{right.key}", "partner"))
        yield from ((left, right) for right in others[:PARTNERS])


def is_held_out(left: Concept, right: Concept) -> bool:
    """Whether training never sees the two beside each other."""
    first, second = sorted((left.key, right.key))
    return emoji_concepts.uniform(f"{first}/{second}", "beside") < HELD_OUT


def styles_of(left: Concept, right: Concept) -> list[str]:
    """The styles in which training sees both."""
    unseen = {emoji_concepts.held_out_style(concept) for concept in (left, right)}
    return [style for style in emoji_vectors.STYLES if style not in unseen]


def draw(style: str, left: str, right: str, size: int) -> bytes:
    """Both concepts, by their keys, as an RGB PNG of `size` x `size`."""
    picture, half = Image.new("RGB", (size, size), "white"), size // 2
    for number, key in enumerate((left, right)):
        drawn = emoji_vectors.rasterise(emoji_vectors.vectors(style)[key], half, "#ffffff")
        picture.paste(drawn.convert("RGB"), (number * half, size // 4))
    png = io.BytesIO()
    picture.save(png, "PNG")
    return png.getvalue()
