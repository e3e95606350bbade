"""The forward process, conversions, losses and augmentation against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import process, schedules

KINDS = ["eps", "x0", "v"]
PAIRS = [(given, wanted) for given in KINDS for wanted in KINDS]
TO = {"eps": process.to_eps, "x0": process.to_x0, "v": process.to_v}
LOG_SNR = jnp.array([-4.0, -1.0, 0.5, 4.0])
SHAPE = (4, 6, 6, 3)


@pytest.fixture
def x():
    return jax.random.uniform(jax.random.key(0), SHAPE, minval=-1.0, maxval=1.0)


@pytest.fixture
def eps():
    return jax.random.normal(jax.random.key(1), SHAPE)


def oracle(x, eps, log_snr):
    """z and v in float64 from the equations."""
    x, eps = np.asarray(x, np.float64), np.asarray(eps, np.float64)
    alpha2 = 1 / (1 + np.exp(-np.asarray(log_snr, np.float64)))[:, None, None, None]
    alpha, sigma = np.sqrt(alpha2), np.sqrt(1 - alpha2)
    return alpha * x + sigma * eps, alpha * eps - sigma * x


def test_q_sample_is_the_equation(x, eps):
    z, _ = oracle(x, eps, LOG_SNR)
    np.testing.assert_allclose(process.q_sample(x, eps, LOG_SNR), z, atol=1e-6)


def test_target_is_the_equation(x, eps):
    _, v = oracle(x, eps, LOG_SNR)
    np.testing.assert_allclose(process.target(x, eps, LOG_SNR, "v"), v, atol=1e-6)
    np.testing.assert_array_equal(process.target(x, eps, LOG_SNR, "eps"), eps)
    np.testing.assert_array_equal(process.target(x, eps, LOG_SNR, "x0"), x)


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_every_kind_converts_to_every_kind(x, eps, given, wanted):
    z = process.q_sample(x, eps, LOG_SNR)
    prediction = process.target(x, eps, LOG_SNR, given)
    converted = TO[wanted](prediction, z, LOG_SNR, given)
    expected = process.target(x, eps, LOG_SNR, wanted)
    np.testing.assert_allclose(converted, expected, atol=2e-5)


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_conversions_round_trip_for_any_prediction(given, wanted):
    z, prediction = jax.random.normal(jax.random.key(2), (2, *SHAPE))
    converted = TO[wanted](prediction, z, LOG_SNR, given)
    np.testing.assert_allclose(TO[given](converted, z, LOG_SNR, wanted), prediction, atol=2e-4)


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_conversions_are_finite_at_the_truncated_ends(x, eps, given, wanted):
    log_snr = jnp.array([-20.0, 20.0, -20.0, 20.0])
    z = process.q_sample(x, eps, log_snr)
    converted = TO[wanted](process.target(x, eps, log_snr, given), z, log_snr, given)
    # Worst case: one float32 rounding of z, 2e-7, over alpha = sigma = 4.5e-5.
    expected = process.target(x, eps, log_snr, wanted)
    np.testing.assert_allclose(converted, expected, atol=0.02)


def test_mean_square_is_each_pictures_mean_over_its_numbers(x):
    error = jnp.array([0.1, 0.2, 0.3, 0.4])
    losses = process.mean_square(x + schedules.over_pixels(error), x)
    np.testing.assert_allclose(losses, error**2, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_weighs_the_error_of_x_whatever_is_predicted(x, eps, kind):
    """loss = min(SNR, 5) ||x0^ - x||^2, for the same estimate x0^ in any parametrisation."""
    z = process.q_sample(x, eps, LOG_SNR)
    error = process.mean_square(
        TO[kind](x + 0.1, z, LOG_SNR, "x0"), process.target(x, eps, LOG_SNR, kind)
    )
    expected = np.minimum(np.exp(np.asarray(LOG_SNR, np.float64)), 5.0) * 0.1**2
    losses = process.min_snr_weight(LOG_SNR, kind, 5.0) * error
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sigmoid_weighs_the_error_of_x_whatever_is_predicted(x, eps, kind):
    """On the error of eps it is -1/2 dlambda/dt sigmoid(b - lambda); of the cosine
    lambda = -2 ln tan(pi t / 2), whose derivative is -2 pi / sin(pi t)."""
    t = np.array([0.1, 0.4, 0.6, 0.9])
    log_snr = -2 * np.log(np.tan(np.pi * t / 2))
    z = process.q_sample(x, eps, jnp.float32(log_snr))
    error = process.mean_square(
        TO[kind](x + 0.1, z, jnp.float32(log_snr), "x0"),
        process.target(x, eps, jnp.float32(log_snr), kind),
    )
    losses = process.sigmoid_weight("cosine", jnp.float32(t), kind, -2.0) * error
    of_eps = np.exp(log_snr) * 0.1**2
    expected = np.pi / np.sin(np.pi * t) / (1 + np.exp(log_snr + 2.0)) * of_eps
    np.testing.assert_allclose(losses, expected, rtol=2e-3)


@pytest.mark.parametrize("schedule", ["cosine", "cosine_shifted_512", "linear", "linear_to_zero"])
def test_the_mean_of_a_sigmoid_weight_does_not_depend_on_the_schedule(schedule):
    """It is an integral over lambda: half that of sigmoid(b - lambda) between two lambdas."""
    t = (jnp.arange(200_000) + 0.5) / 200_000
    log_snr = schedules.log_snr(schedule, t)
    weights = process.sigmoid_weight(schedule, t, "eps", -1.0)
    mean = jnp.mean(jnp.where((log_snr > -6) & (log_snr < 4), weights, 0))
    low, high = (np.log1p(np.exp(-1.0 - end)) for end in (4.0, -6.0))
    np.testing.assert_allclose(mean, (high - low) / 2, rtol=1e-3)


def test_min_snr_weights_have_their_known_values():
    log_snr = jnp.log(jnp.array([0.5, 20.0]))
    weights = [process.min_snr_weight(log_snr, kind, 5.0) for kind in KINDS]
    expected = [[1.0, 5 / 20], [0.5, 5.0], [0.5 / 1.5, 5 / 21]]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_finite_at_the_truncated_ends(kind):
    ends = jnp.array([0.0, 1.0])
    assert np.all(np.isfinite(process.min_snr_weight(jnp.array([20.0, -20.0]), kind, 5.0)))
    for schedule in ("cosine", "linear", "linear_to_zero", "cosine_shifted_1024"):
        assert np.all(np.isfinite(process.sigmoid_weight(schedule, ends, kind, -3.0)))


def test_noise_of_a_picture_depends_on_its_key_alone():
    keys = jax.random.split(jax.random.key(3), 4)
    whole = process.normal(keys, (5, 5, 3))
    np.testing.assert_array_equal(process.normal(keys[2:3], (5, 5, 3))[0], whole[2])
    assert len(np.unique(np.asarray(whole)[:, 0, 0, 0])) == 4


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_augmentation_at_level_zero_returns_the_picture(x, schedule):
    keys = jax.random.split(jax.random.key(4), 4)
    augmented = process.augment_low_res(x, jnp.zeros(4), keys, schedule)
    np.testing.assert_allclose(augmented, x, atol=1 / 2550)  # a twentieth of an 8-bit step


def test_augmentation_takes_each_pictures_own_level_and_key():
    picture = jnp.full((4, 64, 64, 3), 0.5)
    levels = jnp.array([0.1, 0.3, 0.9, 0.9])
    keys = jax.random.split(jax.random.key(5), 4)
    augmented = np.asarray(process.augment_low_res(picture, levels, keys, "cosine"))
    sigma = np.sin(np.pi * np.asarray(levels) / 2)  # of the cosine schedule
    # Standard error of a standard deviation over 12,288 pixels: 0.64 %; of the mean: 0.009.
    np.testing.assert_allclose(augmented.std((1, 2, 3)), sigma, rtol=0.03)
    np.testing.assert_allclose(augmented.mean((1, 2, 3)), 0.5 * np.sqrt(1 - sigma**2), atol=0.04)
    assert np.abs(np.corrcoef(augmented[2].ravel(), augmented[3].ravel())[0, 1]) < 0.05
