"""Train the judge of the cascade on true pictures alone.

    python tools/train_judge.py
    python tools/train_judge.py --without-style fluent --output /tmp/judge.safetensors

It learns every style of every core concept, in every colour that `varied` has and on all of its
backgrounds, held-out ones too: it has to know what is right. It prints how often it is right about
true pictures that are augmented afresh; with --without-style, about those of the style that it has
never seen. The same seed gives the same judge on the same machine.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from PIL import Image, ImageFilter
from tqdm import tqdm

from imagen_jax.data import emoji_colours, emoji_concepts, emoji_vectors
from imagen_jax.data.emoji_vectors import STYLES, Concept
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.evaluation.judge import SHIPPED, SIDE, Judge, JudgeNetwork, save_judge

SHIFT = 4.0
"""Pixels, at most, to any side."""
SCALES = (0.75, 1.1)
DEGREES = 10.0
BLUR = 1.0
"""Pixels, the greatest standard deviation."""
NOISE = 8.0
"""Of 255, the greatest standard deviation."""
LIGHTNESS = 0.12
"""By this share brighter or darker, at most."""
TEST_BATCHES = 16
_WEIGHT_DECAY = 1e-3
_SMOOTHING = 0.05


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A concept in a style and a colour, on nothing: RGBA of `SIDE` pixels."""

    concept: int
    style: int
    colour: str
    """Its own or that which it was turned to; "" where it has none."""
    picture: Image.Image


def colours_of(concept: Concept) -> list[str]:
    """The colours that it can be turned to and stay what it is: a green red apple is another."""
    noun = emoji_concepts.colourable_label(concept)
    others = {other.label for other in emoji_concepts.core_concepts()} - {concept.label}
    return [c for c in emoji_colours.HUES if noun and f"{c} {noun}" not in others]


def drawings(styles: Sequence[str]) -> list[list[Drawing]]:
    """Of each concept in each of the styles: as its artist drew it, then in other colours."""
    return [
        _drawings_of(number, concept, style)
        for number, concept in enumerate(tqdm(emoji_concepts.core_concepts(), "drawing"))
        for style in styles
    ]


def _drawings_of(number: int, concept: Concept, style: str) -> list[Drawing]:
    natural = emoji_colours.natural_colour(style, concept.key)
    looks = {natural: emoji_vectors.vectors(style)[concept.key]}
    for colour in colours_of(concept):
        vector = emoji_colours.turned(style, concept.key, colour)
        if vector is not None and colour != natural:
            looks[colour] = vector
    return [
        Drawing(number, STYLES.index(style), colour, emoji_vectors.rasterise(vector, SIDE))
        for colour, vector in looks.items()
    ]


def augmented(drawing: Drawing, rng: np.random.Generator) -> np.ndarray:
    """The drawing on a background, moved, turned, scaled, blurred and with noise; in [-1, 1]."""
    ground = _background(drawing.colour, rng)
    picture = Image.new("RGBA", (SIDE, SIDE), ground)
    picture.alpha_composite(drawing.picture)
    picture = picture.convert("RGB").transform(
        (SIDE, SIDE), Image.Transform.AFFINE, _movement(rng), Image.Resampling.BILINEAR,
        fillcolor=ground,
    )  # fmt: skip
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR)))
    pixels = np.asarray(picture, np.float32) * rng.uniform(1 - LIGHTNESS, 1 + LIGHTNESS)
    pixels += rng.uniform(0, NOISE) * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels, 0, 255) / 127.5 - 1


def _background(colour: str, rng: np.random.Generator) -> str:
    """White half of the time, else any that is not the object's own colour."""
    if rng.random() < 0.5:
        return emoji_colours.BACKGROUNDS["white"]
    others = [code for name, code in emoji_colours.BACKGROUNDS.items() if name != colour]
    return others[rng.integers(len(others))]


def _movement(rng: np.random.Generator) -> tuple[float, ...]:
    """Pillow's affine map from the new pixels to the old ones, about the centre."""
    angle = np.radians(rng.uniform(-DEGREES, DEGREES))
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix /= rng.uniform(*SCALES)
    centre = np.full(2, SIDE / 2)
    offset = centre - matrix @ (centre + rng.uniform(-SHIFT, SHIFT, 2))
    return (*matrix[0], offset[0], *matrix[1], offset[1])


def batch(
    groups: list[list[Drawing]], size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Augmented pictures and what they show; half of them in the artist's own colours."""

    def draw() -> Drawing:
        group = groups[rng.integers(len(groups))]
        return group[0 if rng.random() < 0.5 else rng.integers(len(group))]

    chosen = [draw() for _ in range(size)]
    return {
        "images": np.stack([augmented(drawing, rng) for drawing in chosen]),
        "concept": np.array([drawing.concept for drawing in chosen]),
        "style": np.array([drawing.style for drawing in chosen]),
    }


@nnx.jit
def train_step(network: JudgeNetwork, optimizer: nnx.Optimizer, batch: dict) -> jax.Array:
    """Updates the network; gives the loss, both heads' cross entropies added."""

    def loss_of(network: JudgeNetwork) -> jax.Array:
        _, concepts, styles = network(batch["images"])
        return _cross_entropy(concepts, batch["concept"]) + _cross_entropy(styles, batch["style"])

    loss, gradients = nnx.value_and_grad(loss_of)(network)
    optimizer.update(network, gradients)
    return loss


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), _SMOOTHING)
    return optax.softmax_cross_entropy(logits, targets).mean()


def train(groups: list[list[Drawing]], steps: int, size: int, rate: float, seed: int) -> Judge:
    """A judge after `steps` batches."""
    concepts = tuple(concept.key for concept in emoji_concepts.core_concepts())
    network = JudgeNetwork(len(concepts), len(STYLES), rngs=nnx.Rngs(seed))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
    optimizer = nnx.Optimizer(
        network, optax.adamw(schedule, weight_decay=_WEIGHT_DECAY), wrt=nnx.Param
    )
    rng = np.random.default_rng(seed)
    for step in (bar := tqdm(range(steps), "training")):
        loss = train_step(network, optimizer, batch(groups, size, rng))
        if step % 20 == 0:
            bar.set_postfix(loss=f"{float(loss):.3f}")
    return Judge(network, concepts, STYLES)


def accuracy(judge: Judge, groups: list[list[Drawing]], size: int, seed: int) -> str:
    """How often the judge is right about pictures that are augmented afresh."""
    rng = np.random.default_rng([seed, 1])
    first, five, style = [], [], []
    for _ in range(TEST_BATCHES):
        shown = batch(groups, size, rng)
        opinions = judge(np.round((shown["images"] + 1) * 127.5).astype(np.uint8))
        ranked = opinions.concepts.argsort(1)[:, ::-1] == shown["concept"][:, None]
        first += [ranked[:, 0]]
        five += [ranked[:, :5].any(1)]
        style += [opinions.styles.argmax(1) == shown["style"]]
    shares = [f"{100 * np.mean(right):.1f}%" for right in (first, five, style)]
    return "concept first {}, among the first five {}, style {}".format(*shares)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--without-style", choices=STYLES)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    if flags.without_style and flags.output == SHIPPED:
        raise UsageError("--without-style makes no judge to ship; name another --output.")
    return flags


def run(flags: argparse.Namespace) -> None:
    known = [style for style in STYLES if style != flags.without_style]
    groups = drawings(known)
    judge = train(groups, flags.steps, flags.batch_size, flags.learning_rate, flags.seed)
    save_judge(flags.output, judge)
    print("seen styles, fresh augmentation:", accuracy(judge, groups, 64, flags.seed))
    if flags.without_style:
        unseen = drawings([flags.without_style])
        print(f"{flags.without_style}, never seen:", accuracy(judge, unseen, 64, flags.seed))


def main() -> None:
    with exit_on_usage_error():
        run(parse())


if __name__ == "__main__":
    main()
