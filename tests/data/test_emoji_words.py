import pytest

from imagen_jax.config import DataConfig
from imagen_jax.data.emoji_vectors import STYLES, concepts
from imagen_jax.data.emoji_words import NOT_IN_FIRST_VERSION, Vocabulary
from imagen_jax.pipeline.shipped import shipped_stage
from imagen_jax.stored.stages import open_stage

CORE = Vocabulary.of(DataConfig(source="captioned_emoji/core_64"))


@pytest.mark.parametrize(
    ("sources", "things", "colours"),
    [
        (["captioned_emoji/core_64"], 175, 0),
        (["tfds:captioned_emoji/varied_256:2.*.*", "captioned_emoji/core_64"], 175, 8),
        (["captioned_emoji/all_64"], len(concepts()), 0),
    ],
)
def test_what_was_trained_on_says_what_is_known(sources, things, colours):
    words = Vocabulary.of(DataConfig(mixture=tuple(f"0.5*{source}" for source in sources)))
    assert (len(words.concepts), len(words.colours)) == (things, colours)
    assert bool(words.backgrounds) == bool(colours)


@pytest.mark.parametrize(
    "mixture",
    [("1*folder:captioned_emoji/core_64",), ("1*coco_captions",),
     ("1*captioned_emoji/core_64", "1*folder:mine")],
)  # fmt: skip
def test_of_other_data_the_words_are_not_known(mixture):
    assert Vocabulary.of(DataConfig(mixture=mixture)) is None


def test_every_name_of_every_thing_is_known_however_it_is_written():
    for concept in CORE.concepts:
        for name in CORE.names_of(concept):
            assert CORE.unknown(f"A {name.upper()}, {STYLES[0]} style") == [], name
        assert CORE.shortest_name(concept) in CORE.names_of(concept)


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("", []),
        ("blue", []),
        ("a picture of the", []),
        ("two puppies on a blue background", []),
        ("strawberries", []),
        ("a unicorn beside a cat", []),  # One known thing is enough.
        ("a blue unicorn, noto style", ["unicorn"]),
        ("a wyvern and a wyvern, fighting", ["wyvern", "fighting"]),
        ("猫", ["猫"]),
    ],
)
def test_words_are_unknown_where_the_prompt_names_nothing_that_is_known(prompt, unknown):
    assert CORE.unknown(prompt) == unknown


def test_the_first_version_of_the_data_set_had_fewer_things_and_no_synonyms():
    first = Vocabulary.of(DataConfig(source="captioned_emoji/core_64:1.0.0"))
    left_out = {concept.label for concept in set(CORE.concepts) - set(first.concepts)}
    assert left_out == NOT_IN_FIRST_VERSION and len(first.concepts) == 165
    for prompt in ("a puppy", "a car", "a plane", "a TV", "a doughnut"):
        assert first.unknown(prompt) and not CORE.unknown(prompt)
    assert not first.unknown("an automobile") and "dog face" in first.nearest("puppy")


@pytest.mark.slow
def test_the_shipped_base_says_what_it_has_seen():
    words = open_stage(shipped_stage("base")).vocabulary
    assert words.has_synonyms and words.colours and words.backgrounds


def test_a_slip_of_the_pen_is_answered_by_spelling_and_another_thing_by_its_kind():
    assert CORE.nearest("helicoptre")[0] == "helicopter"
    assert set(CORE.nearest("unicorn")) <= {
        CORE.shortest_name(c) for c in CORE.concepts if c.subgroup == "animal-mammal"
    }
    assert "horse" in CORE.nearest("zebra")
    assert CORE.nearest("wyvern") == []


def test_the_warning_names_prompt_stage_words_and_their_nearest():
    told = CORE.warning(["a red apple", "a zebra", "a wyvern"], "the base")
    assert told.startswith("The prompt 'a zebra' (and 1 more) names nothing that the base was")
    assert "'zebra' is unknown, the nearest known words are 'cow', 'horse'" in told
    assert CORE.warning(["a red apple", ""], "the base") is None
