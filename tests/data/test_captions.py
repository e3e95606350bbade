"""Wordings drawn from a label, keywords and a style."""

import collections

import numpy as np
import pytest

from imagen_jax.data import captions

KEYWORDS = ("cheese", "slice", "food")


def draws(count: int, label: str = "pizza", keywords: tuple[str, ...] = KEYWORDS) -> list[str]:
    rng = np.random.default_rng(0)
    words = captions.WordedCaptions(label, (), keywords, "noto")
    return [words.draw(rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("label", "phrase"),
    [
        ("red apple", "a red apple"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("hourglass", "an hourglass"),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("rhinoceros", "a rhinoceros"),
        ("glass of milk", "a glass of milk"),
        ("nest with eggs", "a nest with eggs"),
        ("T-Rex", "a T-Rex"),
        ("bread", "bread"),
    ],
)
def test_noun_phrase_has_the_article_of_english(label, phrase):
    assert captions.noun_phrase(label) == phrase


def test_every_draw_is_one_of_the_wordings_and_perhaps_keywords():
    wordings = set(captions.plain_captions("pizza", KEYWORDS))
    wordings |= set(captions.styled_captions("pizza", "noto"))
    for drawn in draws(300):
        words = drawn.split(", ")
        while words and words[-1] in KEYWORDS:
            words.pop()
        assert ", ".join(words) in wordings


def test_all_captions_that_may_be_drawn_are_listed():
    words = captions.WordedCaptions("pizza", (), KEYWORDS, "noto")
    rng, listed = np.random.default_rng(0), list(words.all())
    drawn = {words.draw(rng) for _ in range(5000)}
    assert drawn <= set(listed) and len(listed) == len(set(listed))
    assert len(drawn) > 0.9 * len(listed)


def test_shares_of_style_and_keywords_are_as_stated():
    drawn = draws(4000)
    styled = np.mean(["noto" in text for text in drawn])
    with_keywords = np.mean([text.split(", ")[-1] in KEYWORDS for text in drawn])
    # Standard error of a share of 4,000 draws is at most 0.008.
    assert abs(styled - captions.STYLE_SHARE) < 0.03
    assert abs(with_keywords - captions.KEYWORD_SHARE) < 0.03


def test_portion_only_where_a_keyword_names_it():
    assert "a slice of pizza" in draws(300)
    assert not any(" of " in text for text in draws(300, keywords=("cheese",)))
    assert "a slice of slice of pie" not in draws(300, "slice of pie")


def test_same_rng_same_captions_and_many_wordings():
    assert draws(50) == draws(50)
    assert len(collections.Counter(draws(300))) > 15


def test_typographic_quotes_become_plain():
    assert captions.plain_quotes("woman’s “hat”") == 'woman\'s "hat"'
    assert all("’" not in text for text in draws(100, "woman’s boot", ("woman’s",)))


def test_no_keywords_is_fine():
    assert all("pizza" in text for text in draws(50, keywords=()))


def test_a_colour_and_a_background_are_always_said():
    words = captions.WordedCaptions("apple", (), ("red",), "noto", "blue", "orange")
    rng = np.random.default_rng(0)
    drawn = {words.draw(rng) for _ in range(300)}
    assert "a blue apple on an orange background" in drawn
    assert all("blue apple on an orange background" in text for text in drawn)
    assert not any("red" in text for text in drawn), "Keywords are of the picture without a colour."
    assert drawn == set(words.all())


@pytest.mark.parametrize(
    ("label", "colour", "phrase"),
    [("apple", "orange", "an orange apple"), ("owl", "blue", "a blue owl"),
     ("grapes", "blue", "blue grapes"), ("broccoli", "red", "red broccoli")],
)  # fmt: skip
def test_an_article_fits_the_colour_and_what_has_none_gets_none(label, colour, phrase):
    assert captions.plain_captions(label, colour=colour)[:2] == [f"{colour} {label}", phrase]


def test_synonyms_are_said_in_their_share():
    words = captions.WordedCaptions("dog face", ("dog", "puppy"), (), "noto")
    rng = np.random.default_rng(0)
    drawn = [words.draw(rng) for _ in range(2000)]
    synonyms = np.mean([("dog face" not in text) for text in drawn])
    assert abs(synonyms - captions.SYNONYM_SHARE) < 0.05
    assert "a puppy" in drawn and set(drawn) <= set(words.all())


def test_two_things_are_named_from_the_left():
    words = captions.PairCaptions(("dog face", "puppy"), ("owl",), "noto")
    rng = np.random.default_rng(0)
    drawn = [words.draw(rng) for _ in range(2000)]
    assert {"a dog face and an owl", "a puppy and an owl, noto style"} <= set(drawn)
    assert set(drawn) == set(words.all())
    assert abs(np.mean(["noto" in text for text in drawn]) - captions.STYLE_SHARE) < 0.05
    assert abs(np.mean(["puppy" in text for text in drawn]) - captions.SYNONYM_SHARE) < 0.05
