"""What a batch holds of captions that are blank or too long."""

import warnings

import numpy as np
import pytest
import tiny

from imagen_jax.text.tokenizer import EOS_ID
from imagen_jax.training.text_inputs import load_caption_reader


@pytest.fixture
def read():
    return load_caption_reader(tiny.stage())


def messages(read, captions):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        read(captions)
    return [str(one.message) for one in shown]


@pytest.mark.parametrize("caption", ["", " ", "\u200b", "\ufeff", "\ufffd", "\u2581", "\x01"])
def test_a_caption_that_is_blank_is_its_end_alone(caption, read):
    """And so a broken record, not the end of the run."""
    batch = read(["a red apple", caption])
    assert batch["mask"].sum(1).tolist()[1] == 1 and batch["mask"].sum(1)[0] > 1
    assert batch["token_ids"][1].tolist() == [EOS_ID] + [0] * (tiny.LENGTH - 1)


def test_long_captions_are_quoted_at_first_and_then_counted(read):
    """Whatever their number, the warnings are few; and none is longer than a screen."""
    captions = [f"a red apple number {number} " + "of the many " * 1000 for number in range(600)]
    said = [text for caption in captions for text in messages(read, [caption])]
    assert [text[:36] for text in said[:5]] == [
        f"The caption 'a red apple number {number} of "[:36] for number in range(5)
    ]
    assert all("there is room for 7; its end is dropped" in text for text in said[:5])
    counts = [f"{count} captions so far, each as often as it was read," for count in (50, 500)]
    assert [text.split(" were")[0] for text in said[5:]] == counts
    assert max(map(len, said)) < 500


def test_captions_that_fit_are_not_mentioned(read):
    assert not messages(read, ["a red apple", "a cat"])
    (said,) = messages(read, ["a " * 9])
    assert "has 9 tokens" in said and "its end is dropped" in said
    np.testing.assert_array_equal(read(["a red apple"])["mask"].sum(), 4)
