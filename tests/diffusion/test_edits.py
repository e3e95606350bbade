"""Edits against loops in numpy, RePaint's own schedule, and what a picture must keep."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_loop

from imagen_jax.diffusion import edits, samplers
from imagen_jax.diffusion.process import Predicted
from imagen_jax.diffusion.schedules import alpha_sigma, over_pixels

SHAPE = (2, 6, 4, 3)
NAMES = ["ancestral", "ddim", "dpm++", "heun"]
KEYS = jax.random.split(jax.random.key(0), 2)
PICTURE = np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)
REPAINT = (np.arange(6) < 3)[:, None, None] & np.ones((6, 4, 1), bool)


def denoise(z, log_snr, _step=None):
    """E[x | z] for x ~ N(0.3, 0.5^2)."""
    alpha, sigma = alpha_sigma(over_pixels(log_snr))
    return Predicted(0.3 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (z - alpha * 0.3))


def painted(sampler, model, source, course, grid, keys):
    """All visits of a course, from noise of the keys on."""
    source = edits.for_each(source, len(keys))
    eps = samplers.initial_noise(keys, source.picture.shape[1:])
    state = edits.start(sampler, source, course, grid, eps)
    visit = jax.jit(
        lambda state, x: edits.take(sampler, model, state, source, course, grid, keys, x)
    )
    for number in course.visits:
        state = visit(state, edits.Visit(*map(np.int32, number)))
    return samplers.finish(state)


def run(name, course, num_steps, *, repaint=None, model=denoise):
    sampler = samplers.make(name, types.SimpleNamespace(gamma=0.3, eta=0.5))
    grid = samplers.time_grid("cosine", num_steps)
    source = edits.Source(jnp.asarray(PICTURE), None if repaint is None else jnp.asarray(repaint))
    return np.asarray(painted(sampler, model, source, course, grid, KEYS))


def straight(strength, num_steps, inpainting="repaint"):
    first = edits.first_step(num_steps, strength)
    return edits.Course(first, edits.visits(first, num_steps), inpainting)


def schedule_of_repaint(steps, jump_length, jump_samples):
    """get_schedule_jump of Lugmayr et al. 2022: the steps that are left, and -1 at the end."""
    jumps = {j: jump_samples - 1 for j in range(0, steps - jump_length, jump_length)}
    t, times = steps, []
    while t >= 1:
        t = t - 1
        times.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] = jumps[t] - 1
            for _ in range(jump_length):
                t = t + 1
                times.append(t)
    return [*times, -1]


@pytest.mark.parametrize(("steps", "first"), [(20, 0), (20, 7), (3, 0), (5, 5), (1, 0)])
@pytest.mark.parametrize(("length", "count"), [(1, 1), (1, 3), (4, 3), (10, 10)])
def test_steps_are_visited_as_repaint_visits_them(steps, first, length, count):
    """Both as the places that z goes through, counted in steps that are left."""
    places = []
    for at, index, _ in edits.visits(first, steps, jump_length=length, resamplings=count):
        places += range(steps - 1 - at, steps - 1 - index)
        places += [steps - 1 - index]
    wanted = schedule_of_repaint(steps - first, length, count)[:-1]
    assert places == wanted


def test_each_visit_of_a_step_is_counted():
    course = edits.visits(0, 4, jump_length=1, resamplings=3)
    seen = [(visit.step, visit.again) for visit in course]
    assert len(set(seen)) == len(seen) and {again for _, again in seen} == {0, 1, 2}


@pytest.mark.parametrize(
    ("num_steps", "strength", "first"),
    [(80, 0.7, 24), (50, 1.0, 0), (50, 0.0, 50), (3, 0.1, 2), (10, 0.29, 8), (7, 0.5, 4)],
)
def test_strength_is_the_share_of_the_steps_that_are_taken(num_steps, strength, first):
    assert edits.first_step(num_steps, strength) == first


@pytest.mark.parametrize("name", NAMES)
def test_strength_one_forgets_the_picture_and_strength_nought_keeps_it(name):
    grid = samplers.time_grid("cosine", 5)
    sampler = samplers.make(name, types.SimpleNamespace(gamma=0.3, eta=0.5))
    z = samplers.initial_noise(KEYS, SHAPE[1:])
    without = jax.jit(lambda: sampler_loop.sample(sampler, denoise, z, grid, KEYS))()
    np.testing.assert_allclose(run(name, straight(1.0, 5), 5), without, atol=1e-6)
    np.testing.assert_array_equal(run(name, straight(0.0, 5), 5), PICTURE)


def test_a_picture_changes_the_more_the_stronger_the_edit():
    distances = [np.abs(run("ddim", straight(s, 50), 50) - PICTURE).mean() for s in (0.1, 0.4, 0.9)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_the_clean_rule_is_diffusers_loop():
    """(1 - m) x + m z_first; then each step (1 - m) previous + m new; DDIM by hand."""
    course, num_steps = straight(0.6, 5, "clean"), 5
    grid = np.asarray(samplers.time_grid("cosine", num_steps), np.float64)
    alphas, sigmas = np.sqrt(1 / (1 + np.exp(-grid))), np.sqrt(1 / (1 + np.exp(grid)))
    mask = REPAINT.astype(np.float64)
    eps = np.asarray(samplers.initial_noise(KEYS, SHAPE[1:]), np.float64)
    z = alphas[2] * PICTURE + sigmas[2] * eps
    z = (1 - mask) * PICTURE + mask * z
    for t in range(2, num_steps):
        around = z - alphas[t] * 0.3
        x0 = 0.3 + alphas[t] * 0.25 / (alphas[t] ** 2 * 0.25 + sigmas[t] ** 2) * around
        new = alphas[t + 1] * x0 + sigmas[t + 1] * (z - alphas[t] * x0) / sigmas[t]
        z = (1 - mask) * z + mask * new
    sampler, source = samplers.DDIM(), edits.Source(jnp.asarray(PICTURE), jnp.asarray(REPAINT))
    found = painted(sampler, denoise, source, course, jnp.asarray(grid, jnp.float32), KEYS)
    np.testing.assert_allclose(found, x0, atol=1e-5)


@pytest.mark.parametrize("inpainting", ["clean", "repaint"])
def test_the_network_sees_the_known_part_as_the_rule_says(inpainting):
    """Clean, it is the picture itself in every step; noised, it has z's share of noise."""
    seen = {}

    def watched(z, log_snr, step):
        jax.debug.callback(
            lambda step, z, at: seen.update({int(step): (z, at[0])}), step, z, log_snr
        )
        return denoise(z, log_snr)

    run("ddim", straight(0.5, 6, inpainting), 6, repaint=REPAINT, model=watched)
    jax.effects_barrier()
    assert sorted(seen) == [3, 4, 5]
    for step, (z, log_snr) in seen.items():
        known = np.broadcast_to(~REPAINT, SHAPE)
        alpha, sigma = map(float, alpha_sigma(log_snr))
        if inpainting == "clean":
            np.testing.assert_array_equal(z[known], PICTURE[known])
        else:
            noise = (np.asarray(z)[known] - alpha * PICTURE[known]) / sigma
            assert abs(noise.std() - 1) < 0.25 and abs(noise.mean()) < 0.35, step


@pytest.mark.parametrize("name", NAMES)
def test_going_back_ends_at_a_picture_of_the_data(name):
    """What goes back is noised to the right time."""
    course = edits.Course(0, edits.visits(0, 12, jump_length=3, resamplings=3))
    assert len(course.visits) > 12
    picture = run(name, course, 12, repaint=REPAINT)
    new = picture[np.broadcast_to(REPAINT, SHAPE)]
    assert abs(new.mean() - 0.3) < 0.25 and 0.25 < new.std() < 0.75


def test_noise_is_added_as_the_forward_process_adds_it():
    """z_s of a Gaussian has, noised again, the mean and deviation of z_t; at once if t is s."""
    draws = np.random.default_rng(0).normal(size=(2, 1, 250, 400, 1))
    eps_s, eps_t = jnp.asarray(draws, jnp.float32)
    log_snr_t, log_snr_s = jnp.float32(-1.0), jnp.float32(1.5)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(alpha_sigma, (log_snr_t, log_snr_s))
    z_s = alpha_s * 0.7 + sigma_s * eps_s
    z_t = edits.noise_again(z_s, log_snr_s, log_snr_t, eps_t)
    np.testing.assert_allclose([z_t.mean(), z_t.std()], [alpha_t * 0.7, sigma_t], rtol=0.02)
    np.testing.assert_array_equal(edits.noise_again(z_s, log_snr_s, log_snr_s, eps_t), z_s)


def test_a_picture_does_not_depend_on_its_batch():
    course = edits.Course(2, edits.visits(2, 6, jump_length=2, resamplings=2))
    grid, source = samplers.time_grid("cosine", 6), edits.Source(jnp.asarray(PICTURE[:1]), REPAINT)
    pair = painted(samplers.Ancestral(), denoise, source, course, grid, KEYS)
    alone = painted(samplers.Ancestral(), denoise, source, course, grid, KEYS[1:])
    np.testing.assert_allclose(pair[1:], alone, atol=1e-6)
    assert np.abs(pair[0] - pair[1])[:3].max() > 0.1


def test_who_went_back_is_guided_from_no_step_before():
    """As at the beginning, where 0 led before."""
    course = edits.Course(0, edits.visits(0, 4, jump_length=2, resamplings=2))
    heard = []

    def guided(z, log_snr, step, led):
        heard.append((int(step), led.max().item()))
        return denoise(z, log_snr)._replace(difference=led + 1)

    grid, source = samplers.time_grid("cosine", 4), edits.Source(jnp.asarray(PICTURE), REPAINT)
    z = samplers.initial_noise(KEYS, SHAPE[1:])
    state = edits.start(samplers.DDIM(), source, course, grid, z)
    state = state._replace(difference=jnp.zeros_like(z))
    for visit in course.visits:
        visit = edits.Visit(*map(jnp.int32, visit))
        state = edits.take(samplers.DDIM(), guided, state, source, course, grid, KEYS, visit)
    expected = [(0, 0), (1, 1), (2, 2), (1, 0), (2, 1), (3, 2)]
    assert course.goes_back and heard == expected
