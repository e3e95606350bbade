"""Curves from metrics.jsonl."""

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from imagen_jax.errors import UsageError
from imagen_jax.training.plots import COLOURS, by_time, curve, draw_curves, running_mean


def write(workdir, steps=range(1, 31), **measured):
    """A run whose loss falls; `measured` are more numbers of each line."""
    workdir.mkdir(parents=True, exist_ok=True)
    lines = [{"step": s, "pictures_seen": 8 * s, "loss": 1 / s, **measured} for s in steps]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


def strong(picture, number):
    """How many pixels are of the colour of a run."""
    colour = np.round(np.multiply(to_rgb(COLOURS[number]), 255))
    return (np.asarray(picture.convert("RGB")) == colour).all(-1).sum()


def test_runs_lie_over_each_other_in_one_panel(tmp_path):
    one = draw_curves([write(tmp_path / "a")])
    both = draw_curves([write(tmp_path / "a"), write(tmp_path / "b", range(1, 9))])
    assert both.size == one.size
    assert strong(one, 0) > 200 and not strong(one, 1)
    assert strong(both, 0) > 200 and strong(both, 1) > 100


def test_there_is_a_panel_for_each_quantity_that_a_run_has_measured(tmp_path):
    """They stand in rows of three."""
    plain, timed = write(tmp_path / "a"), write(tmp_path / "b", pictures_per_second=3.0)
    held_out = write(
        tmp_path / "c", pictures_per_second=3.0, loss_by_time=[0.1, None], eval_loss_ema=0.1,
        eval_loss_raw=0.2,
    )  # fmt: skip
    sizes = [draw_curves(workdirs).size for workdirs in ([plain], [plain, timed], [held_out])]
    assert sizes[1] == (2 * sizes[0][0], sizes[0][1])
    assert sizes[2][0] == 3 * sizes[0][0] and sizes[2][1] > 1.5 * sizes[0][1]


def test_what_some_steps_have_is_drawn_of_these():
    lines = [{"pictures_seen": 8, "loss": 1.0}, {"pictures_seen": 16}, {"pictures_seen": 24,
             "loss": 3.0, "x": None}]  # fmt: skip
    np.testing.assert_array_equal(curve(lines, "loss"), [[8, 24], [1, 3]])
    assert [len(axis) for axis in curve(lines, "x")] == [0, 0]


def test_a_running_mean_is_that_of_the_neighbours():
    values = np.random.default_rng(0).normal(size=100)
    mean = running_mean(values)
    assert mean[12] == pytest.approx(values[7:17].mean())
    assert mean[0] == pytest.approx(values[:5].mean())
    np.testing.assert_allclose(running_mean(values[:16])[1:], (values[:15] + values[1:16]) / 2)
    np.testing.assert_array_equal(running_mean(values[:15]), values[:15])
    np.testing.assert_allclose(running_mean(np.full(30, 7.0)), 7.0)


def test_the_loss_by_time_is_that_of_the_end():
    lines = [{"loss_by_time": [9.0, 9.0, 9.0, 9.0]}] * 18
    lines += [
        {"loss_by_time": [1.0, None, 2.0, None]},
        {},
        {"loss_by_time": [3.0, 5.0, None, None]},
    ]
    middles, losses = by_time(lines)
    np.testing.assert_allclose(middles, [0.125, 0.375, 0.625])
    np.testing.assert_allclose(losses, [2.0, 5.0, 2.0])


def test_bins_of_another_number_than_the_last_do_not_count():
    lines = [{"loss_by_time": x} for x in ([7.0], [1.0, 2.0, 3e300, [3]], 5.0)]
    np.testing.assert_allclose(by_time(lines), ([0.125, 0.375], [1.0, 2.0]))


@pytest.mark.parametrize(
    "measured",
    [{"loss_by_time": 3.0}, {"loss_by_time": [None]}, {"loss_by_time": []}, {"loss": [1.0]},
     {"loss": 1e308, "gradient_norm": -1e308}],
)  # fmt: skip
def test_what_cannot_be_drawn_is_left_out(measured, tmp_path):
    run = write(tmp_path, loss_by_time=[0.1, 0.2])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 31, "pictures_seen": 248, **measured}) + "\n")
    assert strong(draw_curves([run]), 0) > 200


def test_runs_of_the_same_name_and_one_without_any_loss(tmp_path):
    runs = [write(tmp_path / name / "run") for name in ("a", "b")]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "metrics.jsonl").write_text('{"step": 1, "pictures_seen": 8}\n')
    assert draw_curves([*runs, tmp_path / "c"]).size == draw_curves(runs).size
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_curves([tmp_path / "c"])
