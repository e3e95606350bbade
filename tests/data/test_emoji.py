"""The packed emoji, the core, the held-out splits, and the tfds builder on a handful."""

import io
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from imagen_jax.data import captioned_emoji, emoji_concepts, emoji_vectors
from imagen_jax.data.emoji_colours import BACKGROUNDS, HUES, from_hex, name_of
from imagen_jax.data.emoji_concepts import (
    CORE_EXCLUDED,
    CORE_EXTRAS,
    NEVER_HELD_OUT,
    SYNONYMS,
    held_out,
)
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


def test_of_a_concept_at_most_one_style_is_held_out():
    core = emoji_concepts.core_concepts()
    styles = {concept: emoji_concepts.held_out_style(concept) for concept in core}
    for concept, style in styles.items():
        assert style in ("", *STYLES) and not (style and concept.label in NEVER_HELD_OUT)
        pairs = [other for other in STYLES if held_out(concept, other) == "pair"]
        assert pairs == [style] * bool(style)
    assert 0.1 < np.mean([bool(style) for style in styles.values()]) < 0.25


def test_held_out_choice_never_changes():
    assert emoji_concepts.held_out_style(by_label("fox")) == "twemoji"
    assert emoji_concepts.held_out_style(by_label("wolf")) == "fluent"
    assert held_out(by_label("robot"), "noto", "blue") == ""
    assert held_out(by_label("robot"), "noto", "purple") == "colour"


def test_colours_and_backgrounds_are_held_out_in_all_styles():
    core = emoji_concepts.core_concepts()
    for kind, looks in (
        ("colour", [(colour, "") for colour in HUES]),
        ("background", [("", colour) for colour in BACKGROUNDS]),
    ):
        reasons = {}
        for concept in core:
            for look in looks:
                of_styles = {held_out(concept, style, *look) for style in STYLES} - {"pair"}
                assert len(of_styles) == 1, "The styles differ."
                reasons[concept.label, look] = of_styles.pop()
        assert set(reasons.values()) == {"", kind}
        assert 0.08 < np.mean([reason == kind for reason in reasons.values()]) < 0.16
        assert not any(reasons["red apple", look] for look in looks)
    assert all(held_out(concept, "noto", "", "white") in ("", "pair") for concept in core)


def test_a_colour_takes_the_place_of_the_one_that_a_label_says():
    assert emoji_concepts.colourable_label(by_label("red apple")) == "apple"
    assert emoji_concepts.colourable_label(by_label("purple heart")) == ""
    assert emoji_concepts.colourable_label(by_label("automobile")) == "automobile"


def test_synonyms_are_of_core_concepts_and_name_no_other_of_them():
    labels = {concept.label.lower() for concept in emoji_concepts.core_concepts()}
    synonyms = [word.lower() for words in SYNONYMS.values() for word in words]
    assert {label.lower() for label in SYNONYMS} <= labels
    assert not labels & set(synonyms) and len(synonyms) == len(set(synonyms))


def test_variants_are_looks_that_can_be_drawn_and_the_single_ones_come_first():
    concept = by_label("banana")
    looks = emoji_concepts.variants(concept, "noto")
    alone = [look for look in looks if not all(look)]
    assert looks[: len(alone)] == alone and len(looks) == len(set(looks)) == 2 * len(alone)
    assert {colour for colour, _ in alone} == {"", *HUES}
    assert ("", "yellow") not in looks, "A yellow banana cannot be seen on yellow."
    assert all(colour != ground for colour, ground in looks)
    assert emoji_concepts.variants(by_label("panda"), "noto")[0][0] == "", "It has no main colour."


@pytest.fixture
def handful(monkeypatch):
    """Makes the core three concepts, of which two have a held-out style."""
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
    assert {(r["label"], r["style"]) for r in test} == {(b"fox", b"twemoji"), (b"wolf", b"fluent")}
    assert {r["held_out"] for r in test} == {b"pair"}
    assert len(train) == 7 and {r["held_out"] for r in train} == {b""}
    assert all("low_res" not in record for record in train)


def test_builder_varies_colours_and_backgrounds(monkeypatch, tmp_path):
    concepts = [by_label(label) for label in ("red apple", "lemon", "fox")]
    monkeypatch.setattr(emoji_concepts, "core_concepts", lambda: concepts)
    monkeypatch.setattr(captioned_emoji, "VARIANTS", {64: 12})
    train, test = (read_all(tmp_path, "varied_64", split) for split in ("train", "test"))
    assert len(train) + len(test) == 3 * 3 * 12
    assert {r["held_out"] for r in train} == {b""} and b"pair" in {r["held_out"] for r in test}
    coloured = [record for record in train if record["colour"]]
    assert {record["label"] for record in coloured} == {b"apple", b"lemon", b"fox"}
    assert all(name_of(pixels(record["image"])) for record in train)
    for record in train:
        if record["background"]:
            wanted = from_hex(BACKGROUNDS[record["background"].decode()])
            np.testing.assert_array_equal(pixels(record["image"])[0, 0], wanted)


def test_builder_stores_true_low_resolution_pictures(handful, tmp_path):
    record = next(r for r in read_all(tmp_path, "core_256", "train") if r["label"] == b"red apple")
    style = record["style"].decode()
    assert pixels(record["image"]).shape == (256, 256, 3)
    assert record["low_res"] == emoji_vectors.draw(style, RED_APPLE, 64)
    assert record["concept"].decode() == RED_APPLE
    assert "fruit" in record["keywords"].decode().split(captioned_emoji.SEPARATOR)


def test_configs_are_named_by_subset_and_resolution():
    names = {config.name for config in captioned_emoji.CaptionedEmoji.BUILDER_CONFIGS}
    assert names == {
        f"{s}_{r}" for s in ("core", "all", "varied", "pairs") for r in (64, 256, 1024)
    }
