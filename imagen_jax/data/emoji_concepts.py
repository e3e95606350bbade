"""Which emoji are the core, and which are held out of training."""

import hashlib
from typing import Literal

from imagen_jax.data import emoji_vectors
from imagen_jax.data.emoji_vectors import STYLES, Concept

HeldOut = Literal["", "concept", "pair"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split(";"))


CORE_SUBGROUPS = _names("food-fruit;food-vegetable;food-sweet;plant-flower")
CORE_EXTRAS = _names(
    "red heart;orange heart;yellow heart;green heart;blue heart;purple heart;brown heart;"
    "black heart;star;sun;crescent moon;ringed planet;rainbow;cloud;snowflake;snowman;fire;"
    "droplet;high voltage;umbrella;house;castle;tent;volcano;soccer ball;baseball;basketball;"
    "volleyball;american football;tennis;bowling;pool 8 ball;trophy;balloon;wrapped gift;"
    "Christmas tree;jack-o-lantern;teddy bear;kite;artist palette;glasses;top hat;crown;"
    "gem stone;key;hammer;light bulb;camera;pencil;scissors;bell;books;ghost;robot;"
    "dog face;cat face;mouse face;cow face;tiger face;rabbit face;pig face;horse face;"
    "monkey face;fox;bear;panda;koala;lion;frog;chicken;penguin;owl;bird;fish;octopus;turtle;"
    "spouting whale;butterfly;lady beetle;snail;elephant;"
    "pizza;hamburger;french fries;hot dog;taco;egg;popcorn;sandwich;"
    "rocket;airplane;automobile;taxi;bus;locomotive;bicycle;sailboat;helicopter;"
    "flying saucer;fire engine;ambulance;delivery truck;tractor;"
    "guitar;drum;trumpet;violin;hot beverage;wine glass;beer mug;"
    "deciduous tree;evergreen tree;palm tree;cactus;four leaf clover;maple leaf"
)
"""Objects of the subgroups that hold too much else to be taken whole."""
CORE_EXCLUDED = _names("brown mushroom;white flower;rosette;wilted flower;lotus;hyacinth")
"""Twins of another emoji, and signs."""
NEVER_HELD_OUT = frozenset({"red apple", "cat face", "pizza", "rocket"})
"""The documentation's examples."""
HELD_OUT_CONCEPTS = 0.04
HELD_OUT_PAIRS = 0.04
"""Shares of the concepts, and of the (concept, style) pairs, that make the test split."""


def is_core(concept: Concept) -> bool:
    """Is it one recognisable object that stands in every style?"""
    if emoji_vectors.styles_of(concept.key) != STYLES or concept.label in CORE_EXCLUDED:
        return False
    return concept.subgroup in CORE_SUBGROUPS or concept.label in CORE_EXTRAS


def core_concepts() -> list[Concept]:
    """The core, in emoji order."""
    return [concept for concept in emoji_vectors.concepts().values() if is_core(concept)]


def _uniform(key: str, purpose: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{purpose}:{key}".encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def held_out(concept: Concept, style: str) -> HeldOut:
    """Why the picture is in the test split: its concept, or this style of it; else "".

    At most one style of a concept is held out, and only where another remains to train on,
    so that a held-out pair tests the composition of two known words.
    """
    if concept.label in NEVER_HELD_OUT:
        return ""
    if _uniform(concept.key, "concept") < HELD_OUT_CONCEPTS:
        return "concept"
    styles = emoji_vectors.styles_of(concept.key)
    draw = _uniform(concept.key, "pair") / (HELD_OUT_PAIRS * len(styles))
    if len(styles) > 1 and draw < 1 and styles[int(draw * len(styles))] == style:
        return "pair"
    return ""
