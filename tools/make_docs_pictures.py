"""Paint the pictures of docs/ with the shipped cascade: nothing is selected, the seed is 0.

    python tools/make_docs_pictures.py

Writes docs/samples.png (48 prompts, of which the lower 24 were kept out of training),
docs/stages.png (some prompts by each stage), docs/strip.png (the base's estimates from noise to
picture) and docs/held_out.png (above: (concept, style) pairs that training never saw, as their
artists drew them; below: what the cascade paints), and prints the wall time. All but the strip are
of the base's student, as `sample.py` paints.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.evaluation import cases
from imagen_jax.pipeline.callbacks import Progress
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import grid, save_png
from imagen_jax.pipeline.shipped import STAGES, STUDENT, shipped_stage

DOCS = Path(__file__).parent.parent / "docs"
SEED = 0
CELL, COLUMNS = 144, 8
OF_EACH_KIND = 8
"""Held-out pairs, colours and backgrounds on the sheet."""
PROMPTS = (
    "a red apple", "a cat face", "a slice of pizza, noto style", "twemoji rocket",
    "a banana", "a lemon", "a strawberry, fluent style", "grapes",
    "a carrot, twemoji style", "an ear of corn", "a hamburger", "an ice cream",
    "a sunflower", "a cactus, noto style", "a puppy", "a blue heart",
    "a panda", "a tiger face", "a penguin, twemoji style", "an octopus",
    "a basketball", "a light bulb", "a sailboat", "a red car",
)  # fmt: skip
BY_STAGE = ("a red apple", "a tiger face", "a blue car", "a sailboat on a yellow background")
STRIP = "a tiger face"
ESTIMATES = 8
"""Pictures of the strip."""


def held_out(kind: cases.Kind) -> list[cases.Case]:
    """The first cases of a kind, in the order that the evaluation drew."""
    return [case for case in cases.all_cases() if case.kind == kind][:OF_EACH_KIND]


def in_rows(things: Sequence[Any]) -> list[list[Any]]:
    """As many as a sheet has columns in each row."""
    return [list(things[i : i + COLUMNS]) for i in range(0, len(things), COLUMNS)]


def paint_samples(cascade: Cascade) -> None:
    """48 prompts as the last stage paints them."""
    kinds: tuple[cases.Kind, ...] = ("held-out pairs", "held-out colours", "held-out backgrounds")
    prompts = [*PROMPTS, *(case.prompt for kind in kinds for case in held_out(kind))]
    pictures = cascade(prompts, seed=SEED).stages[-1]
    save_png(grid(in_rows(pictures), in_rows(prompts), CELL), DOCS / "samples.png")


def paint_stages(cascade: Cascade) -> None:
    """Each prompt's pictures of all stages, one size, beside each other."""
    stages = cascade(BY_STAGE, seed=SEED).stages
    rows = [list(row) for row in zip(*stages, strict=True)]
    captions = [
        [f"{len(picture)} pixels: {prompt}" for picture in row]
        for prompt, row in zip(BY_STAGE, rows, strict=True)
    ]
    save_png(grid(rows, captions, 2 * CELL), DOCS / "stages.png")


def paint_strip(cascade: Cascade) -> None:
    """What the base takes the picture for as its noise falls, from the first step to the last."""
    estimates: list[np.ndarray] = []

    def keep(progress: Progress) -> None:
        if progress.stage == 0:
            estimates.append(progress.estimate[0])

    cascade(STRIP, seed=SEED, callback=keep)
    chosen = np.unique(np.linspace(0, len(estimates) - 1, ESTIMATES).round().astype(int))
    captions = [f"step {i + 1} of {len(estimates)}" for i in chosen]
    save_png(grid([[estimates[i] for i in chosen]], [captions], CELL), DOCS / "strip.png")


def paint_held_out(cascade: Cascade) -> None:
    """Held-out pairs above what the cascade paints for them."""
    pairs = held_out("held-out pairs")
    painted = cascade([case.prompt for case in pairs], seed=SEED).stages[-1]
    drawn = [case.true_picture(case.style, painted.shape[1]) for case in pairs]
    captions = [["drawn"] * len(pairs), [case.prompt for case in pairs]]
    save_png(grid([drawn, list(painted)], captions, CELL), DOCS / "held_out.png")


def main() -> None:
    start = time.monotonic()
    quick = load_cascade(*(shipped_stage(name) for name in (STUDENT, *STAGES[1:])))
    whole = load_cascade()
    for paint, cascade in (
        (paint_samples, quick),
        (paint_stages, quick),
        (paint_held_out, quick),
        (paint_strip, whole),
    ):
        paint(cascade)
        print(f"{paint.__name__}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
