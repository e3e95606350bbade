"""The fixed prompts: the same for everyone, and what they hold out no training picture shows."""

import itertools
from collections import Counter

import numpy as np
import pytest

from imagen_jax.data import captioned_emoji, emoji_colours, emoji_concepts
from imagen_jax.data.emoji_concepts import held_out
from imagen_jax.data.emoji_vectors import STYLES
from imagen_jax.evaluation import looks
from imagen_jax.evaluation.cases import KINDS, all_cases, digest, first_of_each

DIGEST = "1da6a846068f1cb83e3a4f4ac3a0f0e1059945d2dce2aeba9e5c53f0fd99cf5f"
"""Whoever changes it makes all figures measured before worthless beside those after."""


CONCEPTS = {concept.key: concept for concept in emoji_concepts.core_concepts()}


@pytest.fixture(scope="module")
def cases():
    return all_cases()


def reasons(concept, style="", colour="", background="") -> set[str]:
    """Why pictures are held out: all that show the concept so, with whatever else they show."""
    return {
        held_out(concept, *look)
        for look in itertools.product(
            [style] if style else STYLES,
            [colour] if colour else ["", *emoji_colours.HUES],
            [background] if background else ["", *emoji_colours.BACKGROUNDS],
        )
    }


def is_seen(concept) -> bool:
    return any(not held_out(concept, style) for style in STYLES)


def of_kind(cases, kind):
    return [case for case in cases if case.kind == kind]


def test_nobody_changes_the_prompts_unnoticed(cases):
    assert digest(cases) == DIGEST


def test_there_are_as_many_as_are_said(cases):
    pairs = sum(bool(emoji_concepts.held_out_style(c)) for c in emoji_concepts.core_concepts())
    assert list(Counter(case.kind for case in cases).values()) == [100, pairs, 60, 30]
    assert len({case.prompt for case in cases}) == len(cases)


def test_seen_pairs_are_seen(cases):
    for case in of_kind(cases, "seen pairs"):
        assert held_out(CONCEPTS[case.concept], case.style) == ""


def test_held_out_pairs_are_not_in_training_in_any_look(cases):
    for case in of_kind(cases, "held-out pairs"):
        assert reasons(CONCEPTS[case.concept], style=case.style) == {"pair"}
        assert is_seen(CONCEPTS[case.concept])


def test_held_out_colours_are_not_in_training_under_any_emoji_of_that_name(cases):
    for case in of_kind(cases, "held-out colours"):
        noun = emoji_concepts.colourable_label(CONCEPTS[case.concept])
        sharing = [c for c in CONCEPTS.values() if emoji_concepts.colourable_label(c) == noun]
        for concept in sharing:
            assert "" not in reasons(concept, colour=case.colour)
            assert is_seen(concept)


def test_held_out_backgrounds_are_not_in_training(cases):
    for case in of_kind(cases, "held-out backgrounds"):
        assert "" not in reasons(CONCEPTS[case.concept], background=case.background)


def test_prompts_say_what_is_expected(cases):
    examples = {case.prompt: case for case in cases}
    assert examples["a tiger face, noto style"].style == "noto"
    assert examples["beans, fluent style"].kind == "held-out pairs"
    assert examples["an orange cucumber"].colour == "orange"
    assert examples["a violin on a pink background"].background == "pink"


def test_true_pictures_are_as_the_prompt_says(cases):
    for case in first_of_each(cases, 3):
        style = case.true_styles()[0]
        picture = case.true_picture(style, captioned_emoji.RESOLUTIONS[0])
        if case.colour:
            assert looks.object_colour(picture) == case.colour
        if case.background:
            assert looks.background_name(picture) == case.background
        assert looks.is_on_white(picture) == (not case.background)


def test_each_kind_has_its_first_few(cases):
    few = first_of_each(cases, 2)
    assert [case.kind for case in few] == list(np.repeat(KINDS, 2))
    assert few[:2] == cases[:2]
