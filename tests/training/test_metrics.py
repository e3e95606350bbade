"""Steps become what is logged, and too many that are not finite become an error."""

import math

import numpy as np
import pytest

from imagen_jax.training.metrics import (
    BrokenParameters,
    Interval,
    SkipCounter,
    TooManySkipped,
)

NAN = math.nan


def step(loss, bins=(), *, norm=1.0, skipped=0.0, gradient_norm=2.0):
    """Metrics of a step whose pictures fell in `bins`, with the loss in each."""
    losses, shares = np.zeros(10), np.zeros(10)
    for index in bins:
        losses[index] += loss / len(bins)
        shares[index] += 1 / len(bins)
    return {
        "loss": np.float32(loss), "bin_losses": losses, "bin_shares": shares,
        "gradient_norm": np.float32(gradient_norm), "parameter_norm": np.float32(norm),
        "learning_rate": np.float32(0.5), "skipped": np.float32(skipped),
    }  # fmt: skip


BAD = step(NAN, [0], skipped=1.0, gradient_norm=NAN)


def summary(*steps):
    interval = Interval()
    for values in steps:
        interval.add(values)
    return interval.summary()


def test_what_is_logged_is_the_mean_of_all_steps_and_the_last_state():
    logged = summary(step(2.0, [0, 9], norm=1.0), step(4.0, [0], norm=3.0))
    assert (logged["loss"], logged["gradient_norm"]) == (3.0, 2.0)
    assert (logged["parameter_norm"], logged["learning_rate"], logged["skipped"]) == (3.0, 0.5, 0)
    # Three pictures of equal weight in a batch: 2 and 4 of bin 0 weigh 1/2 and 1.
    expected = [pytest.approx((2.0 * 0.5 + 4.0) / 1.5), *[None] * 8, 2.0]
    assert logged["loss_by_time"] == expected


def test_a_skipped_step_is_counted_and_spoils_no_mean():
    logged = summary(step(2.0, [3]), BAD, step(4.0, [3]), BAD)
    assert (logged["loss"], logged["loss_by_time"][3], logged["skipped"]) == (3.0, 3.0, 2)


def test_where_all_were_skipped_there_is_no_loss():
    logged = summary(BAD, BAD)
    assert logged == {"parameter_norm": 1.0, "learning_rate": 0.5, "skipped": 2}


def test_only_skips_in_a_row_stop_a_run():
    counter = SkipCounter(3)
    for number in range(20):
        assert counter.add(number, step(1.0) if number % 3 == 2 else BAD) is None
    assert counter.total == 14
    error = counter.add(20, BAD) or counter.add(21, BAD)
    assert isinstance(error, TooManySkipped)
    assert str(error).startswith("Step 20: loss is nan, and 3 updates in a row were skipped")


def test_it_is_the_gradient_where_the_loss_is_finite():
    error = SkipCounter(1).add(7, step(1.0, skipped=1.0, gradient_norm=math.inf))
    assert str(error).startswith("Step 7: gradient_norm is inf, and 1 updates in a row")


@pytest.mark.parametrize("norm", [NAN, math.inf])
def test_broken_parameters_stop_a_run_at_once(norm):
    error = SkipCounter(3).add(5, step(1.0, norm=norm))
    assert isinstance(error, BrokenParameters)
    assert str(error).startswith(f"Step 5: parameter_norm is {norm}; the run stops before it is")
