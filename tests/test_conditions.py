"""What of the conditions guidance and dropout leave out, and what they keep."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.conditions import NO_CLASS, Conditions, drop, hide, stacked
from imagen_jax.config import ConditionsConfig
from imagen_jax.errors import UsageError

TOLD = Conditions(
    text=jnp.ones((3, 2, 4)), mask=jnp.ones((3, 2), bool), label=jnp.array([4, 0, 7]),
    pictures={"sketch": jnp.arange(3.0).reshape(3, 1, 1, 1)}, numbers={"w": jnp.arange(3.0)},
)  # fmt: skip


def test_text_and_class_are_dropped_and_pictures_and_numbers_stay():
    dropped = drop(TOLD, jnp.array([False, True, False]))
    assert dropped.label.tolist() == [4, NO_CLASS, 7]
    assert dropped.text.any((1, 2)).tolist() == [True, False, True]
    assert dropped.mask.tolist() == [[True, True], [True, False], [True, True]]
    np.testing.assert_array_equal(dropped.pictures["sketch"], TOLD.pictures["sketch"])
    np.testing.assert_array_equal(dropped.numbers["w"], TOLD.numbers["w"])


def test_the_second_half_is_the_first_without_text_and_class():
    both = stacked(TOLD, guided=True)
    assert both.label.tolist() == [4, 0, 7, *[NO_CLASS] * 3]
    assert both.numbers["w"].tolist() == [0, 1, 2, 0, 1, 2]
    assert not both.text[3:].any() and both.pictures["sketch"].shape == (6, 1, 1, 1)
    alone = stacked(Conditions(label=jnp.array([1])), guided=True)
    assert alone.text is None and alone.label.tolist() == [1, NO_CLASS]


def test_pictures_are_left_out_each_by_itself_and_text_stays():
    hidden = hide(TOLD, {"sketch": jnp.array([False, True, False])})
    assert hidden.shown["sketch"].tolist() == [True, False, True]
    assert hidden.text is TOLD.text and hidden.label is TOLD.label and TOLD.shown == {}
    again = hide(hidden, {"sketch": jnp.array([True, False, False])})
    assert again.shown["sketch"].tolist() == [False, False, True]


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("hidden", [[False, True, False], None])
def test_the_last_part_has_no_pictures_and_no_more_text_than_the_one_before(guided, hidden):
    there = hide(TOLD, {"sketch": jnp.array(hidden)}) if hidden else TOLD
    parts = stacked(there, guided=guided, hidden=["sketch"])
    shown = [not x for x in hidden or [False] * 3] * (1 + guided) + [False] * 3
    assert parts.shown["sketch"].tolist() == shown
    labels = [4, 0, 7] + [NO_CLASS] * (6 if guided else 0)
    assert parts.label.tolist() == (labels if guided else [4, 0, 7] * 2)
    assert bool(parts.text[-3:].any()) != guided


def test_a_config_says_what_a_network_is_built_for():
    told = ConditionsConfig(text=False, classes=5, pictures=("sketch:1", "map"), numbers=("w",))
    inputs = told.inputs(16, enlarges=True)
    assert (inputs.text_width, inputs.classes, inputs.numbers) == (None, 5, ("w",))
    assert [(x.name, x.channels) for x in inputs.pictures] == [("sketch", 1), ("map", 3)]
    assert ([x.name for x in inputs.stacked], inputs.levels) == (["low_res"], ("aug_level",))
    assert inputs.channels == 6 and told.inputs(16, enlarges=False).channels == 3
    assert ConditionsConfig().inputs(16, enlarges=False).text_width == 16


def test_a_map_has_a_channel_for_each_class_and_a_mask_comes_with_its_picture():
    told = ConditionsConfig(pictures=("labels:classes=9", "hole:mask", "depth:1"))
    shapes = [(x.kind, x.stored_channels, x.channels) for x in told.shown]
    assert shapes == [("labels", 1, 9), ("mask", 4, 4), ("grey", 1, 1)]
    assert not told.can_hide
    assert ConditionsConfig(pictures=("depth:1",), picture_dropout=0.1).can_hide


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"classes": 0}, "conditions.classes is 0; it must lie between 1 and"),
        ({"pictures": ("sketch:2",)}, "conditions.pictures has 'sketch:2'"),
        ({"pictures": ("labels:classes=0",)}, "conditions.pictures has 'labels:classes=0'"),
        ({"pictures": ("labels:classes=256",)}, "conditions.pictures has 'labels:classes=256'"),
        ({"pictures": ("labels:classes=",)}, "conditions.pictures has 'labels:classes='"),
        ({"pictures": ("sketch:",)}, "conditions.pictures has 'sketch:'"),
        ({"picture_dropout": 1.5}, "ConditionsConfig.picture_dropout is 1.5; it must lie between"),
        ({"pictures": ("a sketch",)}, "conditions.pictures has 'a sketch'"),
        ({"pictures": ("low_res",)}, "conditions has the name 'low_res'; it must be"),
        ({"numbers": ("mask",)}, "conditions has the name 'mask'; it must be"),
        ({"numbers": ("1",)}, "conditions has the name '1'; it must be"),
        ({"guidance": (3.0, 3.0)}, r"conditions.guidance is \(3.0, 3.0\); it must be two weights"),
        ({"guidance": (-1.0, 3.0)}, r"conditions.guidance is \(-1.0, 3.0\); it must be two"),
        ({"guidance": (1.0, 3.0), "text": False}, "has nothing that guidance leads away from"),
        (
            {"guidance": (1.0, 3.0), "numbers": ("guidance_scale",)},
            "which is what conditions.guidance adds",
        ),
        ({"pictures": ("a",), "numbers": ("a",)}, "conditions has the name 'a' twice"),
    ],
)
def test_conditions_that_cannot_be_are_refused(fields, says):
    with pytest.raises(UsageError, match=says):
        ConditionsConfig(**fields)
