"""What a sweep goes over, as it is written."""

import pytest

from imagen_jax.errors import UsageError
from imagen_jax.evaluation.axes import (
    directory_name,
    points_of,
    read_axes,
    read_axis,
    settings_in,
    stages_in,
)


def test_the_papers_lists_are_those_of_its_appendix():
    base, sr = (read_axis(name) for name in ("paper-base-w", "paper-sr-w"))
    assert (base.name, sr.name) == ("base.guidance", "sr256.guidance")
    assert base.values == (1, 1.25, 1.5, 1.75, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert sr.values == (1, 3, 5, 7, 8, 10, 12, 15, 18)


def test_points_are_all_combinations_and_the_first_axis_changes_first():
    points = points_of(read_axes(["guidance=1,2", "sr256.aug-level=0, 0.1"]))
    assert points == [
        {"guidance": 1.0, "sr256.aug_level": 0.0},
        {"guidance": 2.0, "sr256.aug_level": 0.0},
        {"guidance": 1.0, "sr256.aug_level": 0.1},
        {"guidance": 2.0, "sr256.aug_level": 0.1},
    ]


def test_a_point_changes_settings_of_all_stages_or_of_one():
    given = {"guidance_scale": [3.0, None, None], "num_steps": [8, 8, 8], "timesteps": [None] * 3}
    before = {name: list(values) for name, values in given.items()}
    point = {"sr256.guidance": 5.0, "steps": 4, "base": "runs/a", "sampler": "ddim"}
    assert settings_in(point, given, 3) == {
        "guidance_scale": [3.0, 5.0, None],
        "num_steps": [4, 4, 4],
        "timesteps": [(), (), ()],
        "sampler": ["ddim"] * 3,
    }
    assert given == before and stages_in(point) == {"base": "runs/a"}
    one_first = {"base.guidance": 1.0, "guidance": 2.0}
    assert settings_in(one_first, {}, 2) == {"guidance_scale": [1.0, 2.0]}
    with pytest.raises(UsageError, match="names sr256.guidance; the cascade ends after base"):
        settings_in(point, {}, 1)


def test_options_of_guidance_are_read():
    interval, oscillating = map(read_axis, ("interval=0:1,0.2:0.8", "base.oscillates-from=0,12"))
    assert interval.values == ((0, 1), (0.2, 0.8)) and oscillating.values == (0, 12)
    assert read_axis("momentum=0,-0.5").values == (0, -0.5)
    assert settings_in({"momentum": -0.5}, {}, 1) == {"guidance_momentum": [-0.5]}
    point = {"interval": interval.values[1], "base.oscillates_from": 12}
    assert settings_in(point, {}, 2) == {
        "guidance_interval": [(0.2, 0.8)] * 2,
        "guidance_oscillates_from": [12, None],
    }


def test_a_directory_is_known_by_its_settings_in_any_order():
    one, other = {"guidance": 1.0, "base": "runs/a"}, {"base": "runs/a", "guidance": 1.0}
    assert directory_name(one) == directory_name(other)
    assert "/" not in directory_name(one)
    assert directory_name(one) != directory_name({**one, "base": "runs_a"})
    assert len(directory_name({"base": "画" * 300}).encode()) < 143  # What file systems take.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it must be paper-base-w, paper-sr-w"),
        ("beauty=1", "'beauty=1'; it must be"),
        ("sr512.guidance=1", "it must be paper-base-w"),
        ("guidance", "'' is not a finite number"),
        ("guidance=1,x", "'x' is not a finite number"),
        ("guidance=nan", "'nan' is not a finite number"),
        ("aug_level=2", "'2' is not a number between 0 and 1"),
        ("steps=0", "'0' is not a whole number of at least 1"),
        ("steps=1.5", "'1.5' is not a whole number"),
        ("sampler=euler", "'euler' is not ancestral or ddim or"),
        ("interval=0.2", "'0.2' is not two times from 0 to 1"),
        ("interval=0.8:0.2", "'0.8:0.2' is not two times from 0 to 1"),
        ("interval=0:1:1", "'0:1:1' is not two times from 0 to 1"),
        ("interval=0:nan", "'0:nan' is not two times from 0 to 1"),
        ("momentum=-1", "'-1' is not a number from above -1 to 0"),
        ("momentum=0.5", "'0.5' is not a number from above -1 to 0"),
        ("oscillates_from=-1", "'-1' is not a whole number of at least 0"),
        ("base=", "'' is not a stage"),
        ("guidance=1,1.0", "1.0 comes 2 times"),
    ],
)
def test_mistakes_are_named(text, says):
    with pytest.raises(UsageError, match=f"--over is {text!r}".replace("|", ".")) as caught:
        read_axis(text)
    assert says in str(caught.value)


def test_more_points_than_anybody_means_are_refused():
    axes = read_axes([f"{name}=1,2,3,4,5,6,7,8,9,10,11" for name in ("guidance", "steps")])
    assert len(points_of(axes)) == 121
    with pytest.raises(UsageError, match="--over makes 14641 points; there may be 10000"):
        points_of(axes * 2)


def test_nothing_and_the_same_twice_are_refused():
    with pytest.raises(UsageError, match="nothing to vary"):
        read_axes([])
    with pytest.raises(UsageError, match="names guidance 2 times"):
        read_axes(["guidance=1", "guidance=2"])
