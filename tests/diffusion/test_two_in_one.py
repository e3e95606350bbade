"""One step of a student against two of its teacher, worked out in float64 by other means."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion.distillation import ddim_step, two_in_one

LOG_SNRS = [(-20.0, -6.0, -3.0), (-3.0, -1.0, 0.5), (0.2, 1.0, 4.0), (4.0, 7.0, 20.0)]


def alpha_sigma(log_snr):
    alpha_squared = 1 / (1 + np.exp(-np.float64(log_snr)))
    return np.sqrt(alpha_squared), np.sqrt(1 - alpha_squared)


def step(z, x, log_snr_t, log_snr_s):
    """DDIM: the noise that x leaves of z is put back at s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    return alpha_s * x + sigma_s * (z - alpha_t * x) / sigma_t


def inverted(z_t, z_s, log_snr_t, log_snr_s):
    """The x whose one step leads from z_t to z_s (Salimans & Ho 2022, appendix G)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    ratio = sigma_s / sigma_t
    return (z_s - ratio * z_t) / (alpha_s - ratio * alpha_t)


@pytest.fixture(scope="module")
def pictures():
    """z and two estimates, which depend on z as a network's would."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(len(LOG_SNRS), 3, 2, 3))
    return z, np.tanh(z + 0.3), lambda later: np.tanh(0.5 * later - 0.2)


def test_one_step_ends_where_two_do(pictures):
    z, x_t, second = pictures
    t, m, s = (np.array(column) for column in zip(*LOG_SNRS, strict=True))
    over = lambda x: x[:, None, None, None]  # noqa: E731
    z_m = step(z, x_t, over(t), over(m))
    x_m = second(z_m)
    z_s = step(z_m, x_m, over(m), over(s))
    expected = inverted(z, z_s, over(t), over(s))
    at = [jnp.asarray(x, jnp.float32) for x in (t, m, s)]
    reached = ddim_step(jnp.float32(z), jnp.float32(x_t), *at[:2])
    np.testing.assert_allclose(reached, z_m, atol=1e-5)
    found = two_in_one(jnp.float32(x_t), jnp.float32(x_m), *at)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert found.dtype == jnp.float32


def test_a_step_that_ends_at_once_is_its_first_half(pictures):
    """Also at the end of the grid, where nothing is left of the noise."""
    _, x_t, second = pictures
    for end in (3.0, jnp.inf):
        at = (jnp.full(len(x_t), 1.0), *[jnp.full(len(x_t), end)] * 2)
        found = two_in_one(jnp.float32(x_t), jnp.float32(second(x_t)), *at)
        np.testing.assert_array_equal(found, jnp.float32(x_t))


def test_the_picture_is_the_last_estimate_itself(pictures):
    _, x_t, second = pictures
    at = (jnp.full(len(x_t), 1.0), jnp.full(len(x_t), 2.0), jnp.full(len(x_t), jnp.inf))
    x_m = jnp.float32(second(x_t))
    np.testing.assert_array_equal(two_in_one(jnp.float32(x_t), x_m, *at), x_m)
