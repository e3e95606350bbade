"""Two emoji side by side, drawn right and wrong on purpose."""

import io

import numpy as np
import pytest
from PIL import Image

from imagen_jax.config import DataConfig
from imagen_jax.data import emoji_pairs
from imagen_jax.data.emoji_words import Vocabulary
from imagen_jax.evaluation import figures, side_by_side
from imagen_jax.evaluation.judge import load_judge

PAIRS = [f"captioned_emoji/{name}_64" for name in ("core", "pairs")]


def drawn(case: side_by_side.Two, side: int = 64) -> np.ndarray:
    png = emoji_pairs.draw("noto", *case.keys, side)
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("side", [64, 128])
def test_each_is_found_on_its_side(side):
    cases = side_by_side.all_cases()
    assert len(cases) == side_by_side.CASES == len({case.prompt for case in cases})
    pictures = np.stack([drawn(case, side) for case in cases] * 2)
    found = side_by_side.figures_of(load_judge(), cases, pictures)
    assert min(found.values()) > 0.9
    turned = side_by_side.figures_of(load_judge(), cases, pictures[:, :, ::-1])
    assert turned["both named"] < 0.1
    table = figures.two_columns("two", {"pictures": 60, **found})
    assert "| pictures | 60 |" in table and f"{100 * found['both named']:.0f}% |" in table


def test_prompts_are_of_pairs_that_training_never_shows():
    seen = {
        frozenset((left.key, right.key))
        for left, right in emoji_pairs.pairs()
        if not emoji_pairs.is_held_out(left, right)
    }
    assert not seen & {frozenset(case.keys) for case in side_by_side.all_cases()}


def test_a_base_that_saw_no_pairs_knows_none():
    assert not Vocabulary.of(DataConfig(source=PAIRS[0])).has_pairs
    mixture = tuple(f"0.5*{name}" for name in PAIRS)
    assert Vocabulary.of(DataConfig(mixture=mixture)).has_pairs
