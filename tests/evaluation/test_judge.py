"""The shipped judge: what its file says, and that it knows true pictures."""

import io

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from imagen_jax.data import emoji_colours, emoji_concepts
from imagen_jax.data.emoji_vectors import STYLES
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import judge as judges
from imagen_jax.evaluation.judge import (
    SHIPPED,
    SIDE,
    SMALLEST,
    Judge,
    JudgeNetwork,
    load_judge,
    save_judge,
)
from imagen_jax.pipeline.shipped import shipped_stage

RED_APPLE, GREEN_APPLE, BANANA = "1f34e", "1f34f", "1f34c"


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def small():
    """Untrained, of three concepts and two styles."""
    return Judge(JudgeNetwork(3, 2, rngs=nnx.Rngs(0)), ("1f34e", "1f34f", "1f34c"), STYLES[:2])


def drawn(style: str, key: str, colour: str = "", background: str = "", side=SIDE) -> np.ndarray:
    png = emoji_colours.draw(style, key, colour, background, side)
    return np.asarray(Image.open(io.BytesIO(png)))


def named(judge: Judge, pictures: list[np.ndarray]) -> list[str]:
    return [judge.concepts[i] for i in judge(np.stack(pictures)).concepts.argmax(1)]


def test_it_names_the_core_and_all_styles(judge):
    assert judge.concepts == tuple(concept.key for concept in emoji_concepts.core_concepts())
    assert judge.styles == STYLES


def test_its_file_is_small():
    assert SHIPPED.stat().st_size < 4e6


@pytest.mark.parametrize("key", [RED_APPLE, GREEN_APPLE, BANANA])
def test_it_names_true_pictures_and_their_styles(judge, key):
    opinions = judge(np.stack([drawn(style, key) for style in STYLES]))
    assert [judge.concepts[i] for i in opinions.concepts.argmax(1)] == [key] * len(STYLES)
    assert [judge.styles[i] for i in opinions.styles.argmax(1)] == list(STYLES)


def test_it_names_them_whatever_their_colour_and_background(judge):
    pictures = [
        drawn(style, BANANA, colour, background)
        for style, colour, background in
        [("twemoji", "blue", ""), ("twemoji", "", "blue"), ("fluent", "green", "grey")]
    ]  # fmt: skip
    assert named(judge, pictures) == [BANANA] * 3


def test_it_knows_most_true_pictures(judge):
    core = emoji_concepts.core_concepts()[::7]
    keys = [concept.key for concept in core]
    assert np.mean(np.array(named(judge, [drawn("noto", key) for key in keys])) == keys) > 0.9


def test_large_pictures_are_reduced_by_means(judge):
    small_picture = drawn("noto", RED_APPLE)
    enlarged = np.repeat(np.repeat(small_picture, 4, 0), 4, 1)
    opinions = [judge(picture[None]).features for picture in (small_picture, enlarged)]
    np.testing.assert_allclose(*opinions, atol=1e-5)


def test_small_pictures_are_named_as_their_larger_ones(judge):
    core = emoji_concepts.core_concepts()[::7]
    keys = [concept.key for concept in core]
    assert named(judge, [drawn("noto", key, side=SMALLEST) for key in keys]) == keys


@pytest.mark.slow
def test_opinions_depend_neither_on_the_number_nor_on_the_order_of_pictures(small):
    pictures = np.random.default_rng(0).integers(0, 256, (70, SIDE, SIDE, 3)).astype(np.uint8)
    whole, part = small(pictures), small(pictures[[66, 3]])
    np.testing.assert_allclose(part.features, whole.features[[66, 3]], atol=1e-5)
    np.testing.assert_allclose(part.concepts, whole.concepts[[66, 3]], atol=1e-5)
    np.testing.assert_allclose(np.exp(whole.styles).sum(1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_file_gives_back_what_was_saved(small, tmp_path):
    path = tmp_path / "judge.safetensors"
    save_judge(path, small)
    again = load_judge(path)
    assert (again.concepts, again.styles) == (small.concepts, small.styles)
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), small.params())
    jax.tree.map(np.testing.assert_array_equal, again.params(), rounded)


def test_what_is_no_judge_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a judge"):
        load_judge(shipped_stage("base"))
    with pytest.raises(UsageError, match="cannot be read"):
        load_judge(tmp_path / "none.safetensors")


def test_a_judge_of_another_network_is_refused(small, tmp_path, monkeypatch):
    save_judge(tmp_path / "judge.safetensors", small)
    monkeypatch.setattr(judges, "FEATURES", 128)
    with pytest.raises(UsageError, match="shape"):
        load_judge(tmp_path / "judge.safetensors")
