"""The packed emoji, the core, the held-out splits, and the tfds builder on a handful."""

import io
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from imagen_jax.data import captioned_emoji, emoji_concepts, emoji_vectors
from imagen_jax.data.emoji_concepts import CORE_EXCLUDED, CORE_EXTRAS, NEVER_HELD_OUT, held_out
from imagen_jax.data.emoji_vectors import STYLES

RED_APPLE = "1f34e"
_DEFINED = re.compile(r'\bid="([^"]+)"')
_USED = re.compile(r'(?:url\(#|href="#)([^")]+)')


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def by_label(label: str) -> emoji_vectors.Concept:
    return next(c for c in emoji_vectors.concepts().values() if c.label == label)


def test_every_vector_has_words_and_every_concept_a_vector():
    concepts = set(emoji_vectors.concepts())
    assert set().union(*(emoji_vectors.vectors(style) for style in STYLES)) == concepts
    assert all(concept.label.strip() for concept in emoji_vectors.concepts().values())


@pytest.mark.parametrize("style", STYLES)
def test_vectors_refer_to_ids_that_they_define(style):
    for key, vector in emoji_vectors.vectors(style).items():
        missing = set(_USED.findall(vector["body"])) - set(_DEFINED.findall(vector["body"]))
        assert not missing, (key, missing)


@pytest.mark.parametrize("style", STYLES)
def test_no_two_pictures_of_a_style_are_drawn_alike(style):
    bodies = [vector["body"] for vector in emoji_vectors.vectors(style).values()]
    assert len(set(bodies)) == len(bodies)


def test_nothing_left_out_by_licence_or_rule_is_packed():
    groups = {concept.group for concept in emoji_vectors.concepts().values()}
    assert not groups & {"flags", "component"}
    assert not any("skin tone" in c.label for c in emoji_vectors.concepts().values())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [64, 100])
def test_drawing_is_rgb_on_white_and_fills_the_square(style, size):
    drawn = pixels(emoji_vectors.draw(style, RED_APPLE, size))
    assert drawn.shape == (size, size, 3)
    for corner in (drawn[0, 0], drawn[0, -1], drawn[-1, 0], drawn[-1, -1]):
        assert corner.tolist() == [255, 255, 255]
    rows, columns = np.nonzero((drawn < 250).any(axis=-1))
    assert np.ptp(rows) > 0.7 * size and np.ptp(columns) > 0.6 * size
    red, _, blue = drawn[size // 2, size // 2]
    assert red > 180 > blue


def test_box_that_is_not_square_is_centred():
    vector = {"box": [0, 0, 36, 12], "body": '<rect width="36" height="12" fill="#000"/>'}
    assert 'viewBox="0 -12 36 36"' in emoji_vectors.svg(vector)


def test_low_resolution_drawing_is_the_same_picture():
    large = Image.open(io.BytesIO(emoji_vectors.draw("noto", RED_APPLE, 256)))
    small = pixels(emoji_vectors.draw("noto", RED_APPLE, 64)).astype(float)
    shrunk = np.asarray(large.resize((64, 64), Image.Resampling.BOX)).astype(float)
    shifted = np.roll(shrunk, 1, axis=1)
    assert np.abs(small - shrunk).mean() < 1.5 < np.abs(small - shifted).mean()


def test_core_is_some_hundred_concepts_in_every_style():
    core = emoji_concepts.core_concepts()
    labels = {concept.label for concept in core}
    assert 150 <= len(core) <= 400
    assert labels >= CORE_EXTRAS | NEVER_HELD_OUT
    assert not labels & CORE_EXCLUDED
    assert {"people-body", "flags", "symbols"}.isdisjoint(concept.group for concept in core)
    assert all(emoji_vectors.styles_of(concept.key) == STYLES for concept in core)


def test_core_lists_name_real_concepts():
    labels = {concept.label for concept in emoji_vectors.concepts().values()}
    assert labels >= CORE_EXTRAS | CORE_EXCLUDED | NEVER_HELD_OUT


def test_held_out_shares_and_rules():
    reasons = {c: [held_out(c, style) for style in STYLES] for c in emoji_concepts.core_concepts()}
    all_reasons = [reason for of_styles in reasons.values() for reason in of_styles]
    for reason in ("concept", "pair"):
        assert 0.02 < all_reasons.count(reason) / len(all_reasons) < 0.06
    for concept, of_styles in reasons.items():
        assert of_styles.count("concept") in (0, 3)
        assert of_styles.count("pair") <= 1
        assert concept.label not in NEVER_HELD_OUT or not any(of_styles)


def test_held_out_choice_never_changes():
    assert {held_out(by_label("fox"), style) for style in STYLES} == {"concept"}
    assert [held_out(by_label("wolf"), style) for style in STYLES] == ["", "", "pair"]


@pytest.fixture
def handful(monkeypatch):
    """Makes the core three concepts: one held out, one with a held-out style, one neither."""
    concepts = [by_label(label) for label in ("fox", "wolf", "red apple")]
    monkeypatch.setattr(emoji_concepts, "core_concepts", lambda: concepts)


def read_all(directory, config: str, split: str) -> list[dict]:
    builder = tfds.builder(
        f"captioned_emoji/{config}", data_dir=directory, file_format="array_record"
    )
    builder.download_and_prepare(file_format="array_record")
    raw = {
        name: tfds.decode.SkipDecoding()
        for name in ("image", "low_res")
        if name in builder.info.features
    }
    return list(builder.as_data_source(split=split, decoders=raw))


def test_builder_splits_by_what_is_held_out(handful, tmp_path):
    train, test = (read_all(tmp_path, "core_64", split) for split in ("train", "test"))
    assert {(r["label"], r["style"]) for r in test} == {
        (b"fox", b"noto"), (b"fox", b"twemoji"), (b"fox", b"fluent"), (b"wolf", b"fluent"),
    }  # fmt: skip
    assert {r["held_out"] for r in test} == {b"concept", b"pair"}
    assert len(train) == 5 and {r["held_out"] for r in train} == {b""}
    assert all("low_res" not in record for record in train)


def test_builder_stores_true_low_resolution_pictures(handful, tmp_path):
    record = next(r for r in read_all(tmp_path, "core_256", "train") if r["label"] == b"red apple")
    style = record["style"].decode()
    assert pixels(record["image"]).shape == (256, 256, 3)
    assert record["low_res"] == emoji_vectors.draw(style, RED_APPLE, 64)
    assert record["concept"].decode() == RED_APPLE
    assert "fruit" in record["keywords"].decode().split(captioned_emoji.KEYWORD_SEPARATOR)


def test_configs_are_named_by_subset_and_resolution():
    names = {config.name for config in captioned_emoji.CaptionedEmoji.BUILDER_CONFIGS}
    assert names == {f"{s}_{r}" for s in ("core", "all") for r in (64, 256, 1024)}
