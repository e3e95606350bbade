"""Which emoji are the core, and which are held out of training."""

import hashlib
from typing import Literal

from imagen_jax.data import emoji_colours, emoji_vectors
from imagen_jax.data.emoji_vectors import STYLES, Concept

HeldOut = Literal["", "pair", "colour", "background"]


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
    "flying saucer;television;fire engine;ambulance;delivery truck;tractor;"
    "guitar;drum;trumpet;violin;hot beverage;wine glass;beer mug;"
    "deciduous tree;evergreen tree;palm tree;cactus;four leaf clover;maple leaf"
)
"""Objects of the subgroups that hold too much else to be taken whole."""
CORE_EXCLUDED = _names("brown mushroom;white flower;rosette;wilted flower;lotus;hyacinth")
"""Twins of another emoji, and signs."""
NEVER_HELD_OUT = frozenset({"red apple", "cat face", "pizza", "rocket"})
"""The documentation's examples: every style of them is trained on."""
HELD_OUT_STYLES = (0.12, 0.04)
"""Two shares of the concepts, drawn each for itself, of which one style is held out."""
HELD_OUT_COLOURS = 0.12
HELD_OUT_BACKGROUNDS = 0.12
"""Shares of the (concept, colour) and (concept, background) pairs that are held out, in all
styles."""
SYNONYMS = {
    "airplane": ("plane", "aeroplane"),
    "automobile": ("car", "auto"),
    "beer mug": ("beer",),
    "bicycle": ("bike",),
    "books": ("stack of books",),
    "bus": ("coach",),
    "cat face": ("cat", "kitten"),
    "Christmas tree": ("xmas tree",),
    "cow face": ("cow",),
    "crescent moon": ("moon",),
    "deciduous tree": ("tree",),
    "delivery truck": ("truck", "lorry"),
    "dog face": ("dog", "puppy"),
    "doughnut": ("donut",),
    "droplet": ("water drop",),
    "ear of corn": ("corn", "maize"),
    "eggplant": ("aubergine",),
    "evergreen tree": ("pine tree",),
    "fire": ("flame",),
    "fire engine": ("fire truck",),
    "flying saucer": ("UFO",),
    "french fries": ("fries", "chips"),
    "gem stone": ("diamond", "gem"),
    "guitar": ("e-guitar",),
    "hamburger": ("burger",),
    "high voltage": ("lightning bolt",),
    "horse face": ("horse",),
    "hot beverage": ("cup of coffee", "cup of tea"),
    "jack-o-lantern": ("halloween pumpkin",),
    "lady beetle": ("ladybug", "ladybird"),
    "locomotive": ("train", "steam train"),
    "monkey face": ("monkey",),
    "mouse face": ("mouse",),
    "pig face": ("pig",),
    "pool 8 ball": ("8 ball",),
    "rabbit face": ("rabbit", "bunny"),
    "ringed planet": ("saturn",),
    "soccer ball": ("football",),
    "spouting whale": ("whale",),
    "tangerine": ("orange",),
    "television": ("TV", "telly"),
    "tiger face": ("tiger",),
    "top hat": ("hat",),
    "wine glass": ("glass of wine",),
    "wrapped gift": ("present", "gift"),
}
"""Label of a core concept -> what people call it."""
COLOUR_FREE = {"red apple": "apple", "green apple": "apple"}
"""Labels that say a colour -> the word that takes another one."""


def is_core(concept: Concept) -> bool:
    """Is it one recognisable object that stands in every style?"""
    if emoji_vectors.styles_of(concept.key) != STYLES or concept.label in CORE_EXCLUDED:
        return False
    return concept.subgroup in CORE_SUBGROUPS or concept.label in CORE_EXTRAS


def core_concepts() -> list[Concept]:
    """The core, in emoji order."""
    return [concept for concept in emoji_vectors.concepts().values() if is_core(concept)]


def colourable_label(concept: Concept) -> str:
    """The label that a colour is put before; "" where the label says a colour that must stay."""
    if concept.label in COLOUR_FREE:
        return COLOUR_FREE[concept.label]
    words = set(concept.label.split())
    return "" if words & (emoji_colours.BACKGROUNDS.keys()) else concept.label


def uniform(key: str, purpose: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{purpose}:{key}".encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def held_out_style(concept: Concept) -> str:
    """The style in which training never sees the concept, which it sees in others; "" for none."""
    styles = emoji_vectors.styles_of(concept.key)
    if concept.label in NEVER_HELD_OUT or len(styles) == 1:
        return ""
    draw, other_draw = uniform(concept.key, "pair"), uniform(concept.key, "concept")
    share, other_share = HELD_OUT_STYLES
    if draw < share:
        return styles[int(draw / share * len(styles))]
    return styles[int(draw * len(styles))] if other_draw < other_share else ""


def held_out(concept: Concept, style: str, colour: str = "", background: str = "") -> HeldOut:
    """Why the picture is in the test split: its style, colour or background; else "".

    Each is held out of a concept that training sees in other styles, colours and on other
    backgrounds, so that it tests the composition of words that are known.
    """
    if style == held_out_style(concept):
        return "pair"
    if concept.label in NEVER_HELD_OUT:
        return ""
    noun = colourable_label(concept)
    is_shared = concept.label in COLOUR_FREE  # The red apple has all colours of "apple".
    if colour and not is_shared and uniform(f"{noun}/{colour}", "colour") < HELD_OUT_COLOURS:
        return "colour"
    draw = uniform(f"{concept.key}/{background}", "background")
    if background not in ("", "white") and draw < HELD_OUT_BACKGROUNDS:
        return "background"
    return ""


def variants(concept: Concept, style: str) -> list[tuple[str, str]]:
    """(colour, background) of every picture of the concept beside the plain one.

    First each colour and each background alone, in an order drawn from the concept's key and the
    style, then as many with both. None has a colour that the vector cannot take, nor its own
    colour as the background.
    """
    own = emoji_colours.natural_colour(style, concept.key)
    colours = [
        colour
        for colour in emoji_colours.HUES
        if colourable_label(concept) and emoji_colours.turned(style, concept.key, colour)
    ]
    grounds = list(emoji_colours.BACKGROUNDS)

    def drawn(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return sorted(pairs, key=lambda p: uniform(f"{concept.key}/{style}/{p}", "variant"))

    alone = drawn([(c, "") for c in colours] + [("", g) for g in grounds if g != own])
    both = drawn([(c, g) for c in colours for g in grounds if g != c])
    return alone + both[: len(alone)]
