"""Schedules against their equations in float64 and against the discrete chain."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import schedules

SCHEDULES = ["cosine", "linear", "linear_to_zero", "cosine_shifted_256"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snr_falls_strictly_with_time(schedule):
    log_snr = schedules.log_snr(schedule, jnp.linspace(0.0, 1.0, 1001))
    assert np.all(np.diff(log_snr) < 0)


@pytest.mark.parametrize(("schedule", "last"), [("cosine", -20.0), ("linear", -10.04996)])
def test_log_snr_at_both_ends(schedule, last):
    ends = schedules.log_snr(schedule, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, [20.0, last], rtol=1e-5)


def test_cosine_is_the_equation_away_from_the_ends():
    t = np.linspace(0.02, 0.98, 97)
    expected = -2 * np.log(np.tan(np.pi * t / 2))
    actual = schedules.log_snr("cosine", jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(actual, expected, atol=6e-3)  # the truncation moves t by 3e-5


@pytest.mark.parametrize("side", [128, 256, 512, 1024])
def test_a_shifted_cosine_is_as_noisy_once_it_is_averaged_down_to_64(side):
    """Of side / 64 squared pixels the mean has that much less noise."""
    t = jnp.linspace(0.05, 0.95, 19)
    snr, shifted = (
        np.exp(schedules.log_snr(name, t)) for name in ("cosine", f"cosine_shifted_{side}")
    )
    np.testing.assert_allclose(shifted * (side / 64) ** 2, snr, rtol=1e-4)


def test_linear_to_zero_is_linear_with_alpha_moved_and_stretched():
    """In float64; it begins as `linear` does and ends in noise alone."""
    t = np.linspace(0.01, 0.99, 50)
    alpha = lambda t: np.exp(-(0.1 * t + 19.9 / 2 * t**2) / 2)  # noqa: E731
    moved = (alpha(t) - alpha(1.0)) / (1 - alpha(1.0))
    expected = np.log(moved**2 / (1 - moved**2))
    actual = schedules.log_snr("linear_to_zero", jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
    ends = schedules.log_snr("linear_to_zero", jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, [20.0, -20.0], rtol=1e-5)


def test_cosine_is_antisymmetric_about_the_middle():
    t = jnp.linspace(0.0, 0.5, 65)
    forward, backward = schedules.log_snr("cosine", t), schedules.log_snr("cosine", 1 - t)
    np.testing.assert_allclose(forward, -backward, rtol=1e-5, atol=1e-5)


def test_linear_is_close_to_the_chain_of_1000_steps():
    log_alpha_bar = np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, 1000)))
    chain = log_alpha_bar - np.log(-np.expm1(log_alpha_bar))
    actual = schedules.log_snr("linear", jnp.arange(1, 1001) / 1000)
    np.testing.assert_allclose(actual, chain, atol=0.1)


def test_linear_is_the_integral_of_beta():
    ends = np.linspace(0.1, 1.0, 10)
    integrals = [np.trapezoid(0.1 + 19.9 * t, t) for t in (np.linspace(0, e, 1001) for e in ends)]
    actual = schedules.log_snr("linear", jnp.asarray(ends, jnp.float32))
    np.testing.assert_allclose(actual, -np.log(np.expm1(integrals)), rtol=1e-5, atol=1e-5)


def test_alpha_and_sigma_are_variance_preserving_and_have_the_log_snr():
    log_snr = jnp.linspace(-20.0, 20.0, 81)
    alpha, sigma = (np.asarray(value, np.float64) for value in schedules.alpha_sigma(log_snr))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(2 * np.log(alpha / sigma), log_snr, atol=1e-5)


def test_over_pixels_broadcasts_along_the_batch():
    pictures = schedules.over_pixels(jnp.array([1.0, 2.0])) * jnp.ones((2, 3, 5, 4))
    np.testing.assert_array_equal(pictures[:, 2, 4, 3], [1.0, 2.0])
