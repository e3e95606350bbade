"""What is counted of pictures that are drawn right or wrong on purpose."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imagen_jax.evaluation import figures
from imagen_jax.evaluation.cases import Case
from imagen_jax.evaluation.judge import load_judge

BANANA = "1f34c"
PLAIN = Case("seen pairs", "a banana, noto style", BANANA, style="noto")
BLUE = Case("held-out colours", "a blue banana", BANANA, colour="blue")
ON_GREY = Case("held-out backgrounds", "a banana on a grey background", BANANA, background="grey")


@pytest.fixture(scope="module")
def judge():
    return load_judge()


def verdict(judge, asked: Case, shown: Case) -> figures.Verdict:
    picture = shown.true_picture(shown.style or "twemoji", 64)[None]
    return figures.verdicts(judge, [asked], picture, judge(picture), [True])[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", [PLAIN, BLUE, ON_GREY])
def test_what_was_asked_for_is_right(judge, case):
    found = verdict(judge, case, case)
    assert found.named == "banana" and found.all_right
    assert found.on_white is (None if case is ON_GREY else True)


@pytest.mark.parametrize(
    "asked, shown, wrong",
    [
        (PLAIN, Case("seen pairs", "", BANANA, style="fluent"), "style"),
        (BLUE, Case("seen pairs", "", BANANA), "colour"),
        (ON_GREY, PLAIN, "background"),
        (BLUE, Case("seen pairs", "", "1f34e", colour="blue"), "concept"),
    ],
)
def test_one_thing_that_is_wrong_is_counted_and_makes_the_whole_wrong(judge, asked, shown, wrong):
    found = verdict(judge, asked, shown)
    names = ("concept", "style", "colour", "background")
    assert [name for name in names if getattr(found, name) is False] == [wrong]
    assert not found.all_right


def test_shares_are_of_those_that_say_something():
    assert figures.share([True, None, False, True, None]) == pytest.approx(2 / 3)
    assert figures.share([None]) is None


def test_true_pictures_have_no_distance_from_themselves(judge):
    found = [verdict(judge, PLAIN, PLAIN)] * 2
    features = np.random.default_rng(0).normal(size=(2, 4))
    seen, moved = (figures.Seen(x, [0, 1]) for x in (features, features + 1))
    assert figures.figures_of(found, seen, None)["judge_kernel_distance"] is None
    assert figures.figures_of(found, seen, moved)["judge_kernel_distance"] > 0
    assert figures.Seen(features, [0, 0]).distance(moved) is None


def test_enlarged_pictures_have_rise_and_drift(judge):
    stages = [PLAIN.true_picture("noto", side)[None].repeat(2, 0) for side in (64, 256)]
    stages[1] = np.clip(stages[1].astype(int) - 5, 0, 255).astype(np.uint8)
    vectors = stages[1]
    stages[1] = np.stack(
        [Image.fromarray(x).filter(ImageFilter.GaussianBlur(2)) for x in stages[1]]
    )
    found = figures.enlarged_figures(stages, vectors, judge)
    assert found["drift of the mean colour, 64 -> 256 pixels, of 255"] == pytest.approx(5, abs=0.5)
    # From 10 to 90 % a Gaussian's edge takes 2.56 deviations.
    assert found["edge rise of the vectors, 256 pixels"] < 2
    assert found["edge rise, 256 pixels"] == pytest.approx(2.56 * 2, rel=0.25)


def test_the_table_has_a_line_a_figure_and_nothing_where_nothing_is_said(judge):
    found = [verdict(judge, PLAIN, PLAIN)]
    table = figures.markdown(
        {"seen pairs": figures.figures_of(found, figures.Seen(np.ones((1, 4)), [0]), None)}, None
    )
    assert "| concept named first | 100% |" in table and "| object's colour right |  |" in table
    assert len(table.splitlines()) == len(figures.LINES) + 2
