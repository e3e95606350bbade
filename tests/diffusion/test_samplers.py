"""Samplers on data whose exact denoiser, posterior and ODE solution are known: a Gaussian.

For x ~ N(m, s^2), pixels independent, E[x | z] = m + alpha s^2 (z - alpha m) / var(z) with
var(z) = alpha^2 s^2 + sigma^2, and the probability-flow ODE carries z along unchanged in
units of its standard deviation.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_loop

from imagen_jax.diffusion import process, samplers, schedules
from imagen_jax.diffusion.process import Predicted
from imagen_jax.diffusion.schedules import alpha_sigma, over_pixels

MEAN, STD = 0.3, 0.5
NAMES = ["ancestral", "ddim", "dpm++", "heun"]


def gaussian(z, log_snr, _step=None):
    """E[x | z] for x ~ N(MEAN, STD^2)."""
    alpha, sigma = alpha_sigma(over_pixels(log_snr))
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return Predicted(MEAN + gain * (z - alpha * MEAN))


def keys_of(batch):
    return jax.random.split(jax.random.key(0), batch)


def jitted(name, denoise, num_steps, shape=(4, 4, 3), gamma=0.3, eta=0.5):
    """keys -> pictures, on the cosine grid."""
    log_snrs = samplers.time_grid("cosine", num_steps)
    sampler = samplers.make(name, types.SimpleNamespace(gamma=gamma, eta=eta))

    def run(keys):
        z = samplers.initial_noise(keys, shape)
        return sampler_loop.sample(sampler, denoise, z, log_snrs, keys)

    return jax.jit(run)


def float64_alpha_sigma(log_snr):
    return np.sqrt(1 / (1 + np.exp(-log_snr))), np.sqrt(1 / (1 + np.exp(log_snr)))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_time_grid_runs_from_noise_to_the_picture_in_num_steps(schedule):
    grid = samplers.time_grid(schedule, 10)
    expected = schedules.log_snr(schedule, 1 - jnp.arange(11) / 10)
    np.testing.assert_allclose(grid, expected, rtol=1e-5)
    np.testing.assert_allclose(grid[-1], 20.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "gamma", "eta"),
    [("ancestral", 0.0, 0.0), ("ancestral", 1.0, 0.0),
     ("ddim", 0.0, 0.0), ("ddim", 0.0, 0.5), ("dpm++", 0.0, 0.0), ("heun", 0.0, 0.0)],
)  # fmt: skip
def test_sampler_recovers_the_mean_and_variance_of_the_data(name, gamma, eta):
    run = jitted(name, gaussian, 1000, shape=(32, 32, 4), gamma=gamma, eta=eta)
    pixels = np.asarray(run(keys_of(4)), np.float64)
    # 16,384 draws: four standard errors are 0.016 of the mean and 2.2 % of the deviation.
    # The steps' own bias of the deviation is at most 0.5 %, at gamma = 0.
    np.testing.assert_allclose(pixels.mean(), MEAN, atol=0.016)
    np.testing.assert_allclose(pixels.std(), STD, rtol=0.027)


def test_posterior_is_bayes_rule():
    """q(z_s | z_t, x) ~ q(z_t | z_s) q(z_s | x): precisions add, means are weighted by them."""
    log_snr_t, log_snr_s, x, z = -1.0, 0.5, 0.7, -0.2
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(float64_alpha_sigma, (log_snr_t, log_snr_s))
    ratio = alpha_t / alpha_s  # z_t = ratio z_s + noise
    noise = sigma_t**2 - ratio**2 * sigma_s**2
    variance = 1 / (ratio**2 / noise + 1 / sigma_s**2)
    mean = variance * (ratio * z / noise + alpha_s * x / sigma_s**2)

    t, s = jnp.float32(log_snr_t), jnp.float32(log_snr_s)
    actual = samplers.posterior_mean(jnp.full((1, 1, 1, 1), z), jnp.full((1, 1, 1, 1), x), t, s)
    np.testing.assert_allclose(actual.item(), mean, rtol=1e-5)
    for gamma, expected in [(0.0, variance), (1.0, noise), (0.3, variance**0.7 * noise**0.3)]:
        actual = samplers.ancestral_std(t, s, gamma) ** 2
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_an_ancestral_step_is_eq_5_with_the_pictures_own_noise():
    """A denoiser that answers its last input shows z_s: the second of two steps returns it."""
    log_snrs = jnp.array([-2.0, 0.5, 20.0])
    z = jax.random.normal(jax.random.key(2), (2, 4, 4, 3))

    def denoise(z, log_snr, _step):
        return Predicted(jnp.where(over_pixels(log_snr) < 0, 0.3 * z, z))

    sampler = samplers.Ancestral(gamma=1.0)
    run = jax.jit(lambda keys: sampler_loop.sample(sampler, denoise, z, log_snrs, keys))
    eps = [jax.random.normal(jax.random.fold_in(key, 0), (4, 4, 3)) for key in keys_of(2)]
    (alpha_t, sigma_t), (alpha_s, _) = float64_alpha_sigma(-2.0), float64_alpha_sigma(0.5)
    kept = np.exp(-2.0 - 0.5)
    mean = (kept * alpha_s / alpha_t + (1 - kept) * alpha_s * 0.3) * np.asarray(z, np.float64)
    expected = mean + np.sqrt(1 - kept) * sigma_t * np.stack(eps)
    np.testing.assert_allclose(run(keys_of(2)), expected, atol=1e-5)


def test_ddim_with_eta_one_is_the_ancestral_sampler_with_gamma_zero():
    ddim = jitted("ddim", gaussian, 12, eta=1.0)(keys_of(2))
    ancestral = jitted("ancestral", gaussian, 12, gamma=0.0)(keys_of(2))
    np.testing.assert_allclose(ddim, ancestral, atol=1e-4)


def test_ddim_puts_back_the_noise_of_the_estimate_that_it_is_told():
    """CFG++: z_s = alpha_s x + sigma_s eps_u, where eps_u is what x_u leaves of z_t."""
    z, x, away = jax.random.normal(jax.random.key(3), (3, 2, 4, 4, 3))
    state = samplers.State(z, jnp.zeros_like(z), ())
    step = samplers.Step(jnp.int32(0), *map(jnp.float32, (-2.0, -2.0, 0.5)))
    of = (state, step, keys_of(2))
    found = samplers.DDIM().update(lambda z, log_snr: Predicted(x, None, away), *of)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(float64_alpha_sigma, (-2.0, 0.5))
    eps = (np.float64(z) - alpha_t * np.float64(away)) / sigma_t
    np.testing.assert_allclose(found.z, alpha_s * np.float64(x) + sigma_s * eps, atol=1e-5)
    np.testing.assert_array_equal(found.x0, x)


@functools.cache
def ode_error(name, num_steps):
    """Largest distance from E[x | z] on the ODE's exact path, after equal steps in log-SNR.

    From lambda = -6 to 6; one more step reads x0 off without moving on the path.
    """
    z = jnp.linspace(-3.0, 3.0, 64).reshape(1, 8, 8, 1)
    log_snrs = jnp.append(jnp.linspace(-6.0, 6.0, num_steps + 1), 20.0)
    sampler = samplers.SAMPLERS[name]()
    actual = jax.jit(lambda keys: sampler_loop.sample(sampler, gaussian, z, log_snrs, keys))(
        keys_of(1)
    )

    (alpha_t, sigma_t), (alpha_s, sigma_s) = float64_alpha_sigma(-6.0), float64_alpha_sigma(6.0)
    units = (np.asarray(z, np.float64) - alpha_t * MEAN) / np.hypot(alpha_t * STD, sigma_t)
    expected = MEAN + alpha_s * STD**2 / np.hypot(alpha_s * STD, sigma_s) * units
    return np.abs(np.asarray(actual) - expected).max()


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm++", 2), ("heun", 2)])
def test_deterministic_sampler_converges_to_the_ode_with_its_order(name, order):
    observed = np.log2(ode_error(name, 32) / ode_error(name, 64))
    assert abs(observed - order) < 0.15


@pytest.mark.parametrize("num_steps", [32, 64])
@pytest.mark.parametrize("name", ["dpm++", "heun"])
def test_a_second_order_solver_beats_ddim_at_the_same_number_of_steps(name, num_steps):
    assert ode_error(name, num_steps) < ode_error("ddim", num_steps) / 4


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_does_not_depend_on_its_batch(name):
    keys, run = keys_of(5), jitted(name, gaussian, 6)
    whole, alone = run(keys), run(keys[3:4])
    np.testing.assert_allclose(alone[0], whole[3], atol=1e-6)
    assert np.abs(whole[3] - whole[2]).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_last_step_returns_the_denoised_picture_itself(name):
    """A denoiser that knows the picture is believed to the last bit, whatever z was."""
    picture = jax.random.uniform(jax.random.key(9), (2, 4, 4, 3), minval=-1.0)
    run = jitted(name, lambda z, log_snr, step: Predicted(picture), 2, gamma=1.0, eta=1.0)
    np.testing.assert_array_equal(run(keys_of(2)), picture)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_estimates_stay_finite_over_the_whole_range_of_log_snr(name):
    """eps = 0 makes x0 = z / alpha, 2e4 at t = 1, as an untrained eps-network does."""

    def untrained(z, log_snr, _step):
        return Predicted(z / alpha_sigma(over_pixels(log_snr))[0])

    assert np.all(np.isfinite(jitted(name, untrained, 25, eta=1.0)(keys_of(2))))


@pytest.mark.parametrize("name", NAMES)
def test_steps_may_be_taken_one_by_one_and_the_last_estimate_is_the_picture(name):
    grid, keys = samplers.time_grid("cosine", 4), keys_of(2)
    sampler = samplers.make(name, types.SimpleNamespace(gamma=0.3, eta=0.5))
    take = jax.jit(lambda state, i: samplers.take(sampler, gaussian, state, grid, keys, i))
    state, seen = samplers.start(sampler, samplers.initial_noise(keys, (4, 4, 3))), []
    for index in range(4):
        state = take(state, np.int32(index))
        seen.append(state.x0)
    picture = jitted(name, gaussian, 4)(keys)
    np.testing.assert_allclose(seen[-1], picture, atol=1e-6)
    assert np.abs(seen[0] - seen[-1]).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_two_parts_is_the_run(name):
    """Stopped after two of five steps, and gone on with from the state."""
    grid, keys = samplers.time_grid("cosine", 5), keys_of(2)
    sampler = samplers.make(name, types.SimpleNamespace(gamma=0.3, eta=0.5))
    z = samplers.initial_noise(keys, (4, 4, 3))
    advance = functools.partial(sampler_loop.advance, sampler, gaussian)
    first = jax.jit(lambda state: advance(state, grid, keys, stop=2))
    rest = jax.jit(lambda state: advance(state, grid, keys, first=2))
    parts = samplers.finish(rest(first(samplers.start(sampler, z))))
    whole = jax.jit(lambda z: sampler_loop.sample(sampler, gaussian, z, grid, keys))(z)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_a_run_may_start_from_any_picture_at_any_time():
    """Of a picture with little noise left the same picture is found again."""
    grid, keys = samplers.time_grid("cosine", 50), keys_of(2)
    picture = jnp.full((2, 4, 4, 3), 0.9)
    sampler = samplers.DDIM()

    def from_step(first):
        log_snr = jnp.broadcast_to(grid[first], 2)
        z = process.q_sample(picture, samplers.initial_noise(keys, (4, 4, 3)), log_snr)
        state = samplers.start(sampler, z)
        return samplers.finish(
            sampler_loop.advance(sampler, gaussian, state, grid, keys, first=first)
        )

    near, far = (np.abs(from_step(first) - picture).mean() for first in (48, 10))
    assert near < 0.05 < 0.2 < far


def test_options_are_traced():
    """Another eta compiles nothing anew and changes the picture."""
    traces, grid = [], samplers.time_grid("cosine", 5)

    @jax.jit
    def run(sampler, keys):
        traces.append(sampler)
        z = samplers.initial_noise(keys, (4, 4, 3))
        return sampler_loop.sample(sampler, gaussian, z, grid, keys)

    pictures = [run(samplers.DDIM(eta=eta), keys_of(2)) for eta in (0.0, 0.7)]
    assert len(traces) == 1 and np.abs(pictures[0] - pictures[1]).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_traced_once(name):
    """A second trace would double the compile time of a real network; Heun needs it."""
    traces = []

    def counting(z, log_snr, step):
        traces.append(z.shape)
        return gaussian(z, log_snr)

    jitted(name, counting, 5).trace(keys_of(2))
    assert traces == [(2, 4, 4, 3)] * (2 if name == "heun" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_float64_changes_nothing_where_a_user_has_it_on(name):
    keys = keys_of(2)
    wanted = np.asarray(jitted(name, gaussian, 4)(keys))
    with jax.enable_x64(True):
        found = np.asarray(jitted(name, gaussian, 4)(keys))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_what_guidance_led_along_goes_from_step_to_step(name):
    """Once a step, however often that asks; without one in the state nothing is told."""
    heard = []

    def denoise(z, log_snr, step, led):
        heard.append(led.item())
        return gaussian(z, log_snr)._replace(difference=2 * led + 1 + len(heard) / 1000)

    sampler = samplers.make(name, types.SimpleNamespace(gamma=0.3, eta=0.0))
    grid, keys = samplers.time_grid("cosine", 3), keys_of(1)
    state = samplers.start(sampler, samplers.initial_noise(keys, (1, 1, 1)))
    state = state._replace(difference=jnp.zeros((1, 1, 1, 1)))
    for index in range(3):
        state = samplers.take(sampler, denoise, state, grid, keys, jnp.int32(index))
    assert np.round(heard).tolist() == np.repeat([0, 1, 3], 2 if name == "heun" else 1).tolist()
    assert heard[-1] == heard[-2] or name != "heun"
    plain = samplers.start(sampler, state.z)
    assert samplers.take(sampler, gaussian, plain, grid, keys, jnp.int32(0)).difference is None
