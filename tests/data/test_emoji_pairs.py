"""Two emoji side by side: which pairs there are, and the tfds builder on a handful."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from imagen_jax.config import DataConfig
from imagen_jax.data import captioned_emoji, emoji_concepts, emoji_pairs, emoji_vectors
from imagen_jax.data.sources import open_source

LABELS = ("red apple", "cat face", "lemon", "fox", "owl")


@pytest.fixture
def handful(monkeypatch):
    """Of five concepts, of which one pair is held out and the fox's style twemoji."""
    known = {c.label: c for c in emoji_vectors.concepts().values()}
    concepts = [known[label] for label in LABELS]
    monkeypatch.setattr(emoji_concepts, "core_concepts", lambda: concepts)
    styles = {"fox": "twemoji"}
    monkeypatch.setattr(emoji_concepts, "held_out_style", lambda c: styles.get(c.label, ""))
    monkeypatch.setattr(
        emoji_pairs, "is_held_out", lambda *two: {c.label for c in two} == {"lemon", "owl"}
    )


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def read_all(data_dir, split: str) -> list[dict]:
    name = f"{captioned_emoji.NAME}/pairs_64"
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    raw = {"image": tfds.decode.SkipDecoding()}
    return list(builder.as_data_source(split=split, decoders=raw))


def test_each_concept_stands_left_of_so_many_others():
    pairs = list(emoji_pairs.pairs())
    core = emoji_concepts.core_concepts()
    assert len(set(pairs)) == len(pairs) == len(core) * emoji_pairs.PARTNERS
    assert all(left.label != right.label for left, right in pairs)
    assert {right.label for _, right in pairs} == {concept.label for concept in core}


def test_a_pair_is_held_out_in_both_orders():
    pairs = list(emoji_pairs.pairs())
    out = [emoji_pairs.is_held_out(*pair) for pair in pairs]
    assert out == [emoji_pairs.is_held_out(*pair[::-1]) for pair in pairs]
    assert abs(np.mean(out) - emoji_pairs.HELD_OUT) < 0.03


def test_each_stands_whole_on_its_side():
    left, right = (next(c for c in emoji_vectors.concepts().values() if c.label == label)
                   for label in ("red apple", "owl"))  # fmt: skip
    picture = pixels(emoji_pairs.draw("noto", left.key, right.key, 64))
    for concept, columns in ((left, slice(0, 32)), (right, slice(32, 64))):
        alone = pixels(emoji_vectors.draw("noto", concept.key, 32))
        np.testing.assert_array_equal(picture[16:48, columns], alone)
    assert (picture[:16] == 255).all() and (picture[48:] == 255).all()


def test_the_builder_splits_by_pair_and_leaves_unseen_styles_out(handful, tmp_path):
    train, test = (read_all(tmp_path, split) for split in ("train", "test"))
    named = lambda r: {r["label"].decode(), r["beside"].decode()}  # noqa: E731
    assert len(test) == 6 and all(named(record) == {"lemon", "owl"} for record in test)
    assert {r["held_out"] for r in test} == {b"pair"} and {r["held_out"] for r in train} == {b""}
    # Four others beside each of five, but one pair in both orders; the fox in two styles.
    assert len(train) == 3 * (5 * 4 - 2) - 2 * 4
    assert not any("fox" in named(r) and r["style"] == b"twemoji" for r in train)


def test_captions_name_both(handful, tmp_path):
    source = open_source(DataConfig(source="captioned_emoji/pairs_64", data_dir=str(tmp_path)))
    said = [set(source[index].captions.all()) for index in range(len(source))]
    assert all(" and " in text for texts in said for text in texts)
    assert any({"a red apple and a kitten", "a red apple and a cat, noto style"} <= s for s in said)
