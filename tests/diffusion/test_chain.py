"""The discrete chain: its numbers, its spacings, and its steps against diffusers' schedulers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_loop

from imagen_jax.diffusion import chain, process, samplers
from imagen_jax.diffusion.guidance import Percentile, make_denoise, threshold
from imagen_jax.diffusion.process import Predicted
from imagen_jax.diffusion.schedules import log_snr
from imagen_jax.errors import UsageError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_log_snrs_are_those_of_the_cosine_up_to_the_capped_last_step():
    """prod (1 - beta_j) telescopes to f((i + 1) / 1000) / f(0)."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha_bar = f[1:-1] / f[0]
    expected = np.log(alpha_bar / (1 - alpha_bar))
    np.testing.assert_allclose(chain.LOG_SNRS[:-1], expected, rtol=1e-5)
    ratio = np.exp(np.float64(chain.LOG_SNRS[-1]) - chain.LOG_SNRS[-2])
    np.testing.assert_allclose(ratio, 0.001, rtol=1e-4)


def test_the_staircase_and_its_steps_are_inverse_to_each_other():
    steps = np.arange(1000)
    for within in (0.0, 0.4, 0.9):
        t = jnp.asarray((steps + within) / 1000, jnp.float32)
        np.testing.assert_array_equal(log_snr("cosine_chain", t), chain.LOG_SNRS)
    np.testing.assert_array_equal(chain.step_of(jnp.asarray(chain.LOG_SNRS)), steps)
    np.testing.assert_array_equal(log_snr("cosine_chain", jnp.ones(1)), chain.LOG_SNRS[-1:])


def test_public_sets_are_the_published_lists():
    fast27 = [999, 800, 799, 600, 599, 500, 400, 399, 377, 355, 333, 311, 288, 266, 244, 222, 200]
    fast27 += [199, 177, 155, 133, 111, 88, 66, 44, 22, 0]
    assert list(chain.sections(chain.SETS["fast27"])) == fast27
    assert {name: len(chain.sections(counts)) for name, counts in chain.SETS.items()} == {
        name: int(name.lstrip("fastmrupe")) for name in chain.SETS
    }


@pytest.mark.parametrize("name", chain.SETS)
def test_public_sets_are_those_of_diffusers(name):
    pytest.importorskip("torch")
    timesteps = pytest.importorskip("diffusers.pipelines.deepfloyd_if.timesteps")
    assert list(chain.sections(chain.SETS[name])) == getattr(timesteps, f"{name}_timesteps")


def test_spacings():
    assert chain.spaced("even", 4) == (999, 666, 333, 0)
    assert chain.spaced("leading", 50)[:2] == (980, 960) and chain.spaced("leading", 3)[0] == 666
    assert chain.spaced("trailing", 4) == (999, 749, 499, 249)
    for spacing in ("even", "leading", "trailing"):
        assert chain.spaced(spacing, 1000) == tuple(range(999, -1, -1))


def test_a_grid_holds_the_steps_and_only_a_chain_has_spacings():
    grid = samplers.time_grid("cosine_chain", 3, timesteps=(900, 30, 0))
    np.testing.assert_array_equal(grid[:-1], chain.LOG_SNRS[[900, 30, 0]])
    with pytest.raises(UsageError, match="'cosine'; the spacing 'leading' belongs to"):
        samplers.time_grid("cosine", 3, "leading")


def test_where_time_is_continuous_steps_are_thousandths():
    grid = samplers.time_grid("cosine", 3, timesteps=(999, 499, 9))
    np.testing.assert_allclose(grid, log_snr("cosine", jnp.array([1.0, 0.5, 0.01, 0.0])), rtol=1e-5)
    np.testing.assert_allclose(samplers.times("cosine", 3, "even", (999, 499, 9)), [1, 0.5, 0.01])
    evenly = samplers.time_grid("cosine", 4, timesteps=(999, 749, 499, 249))
    np.testing.assert_allclose(evenly, samplers.time_grid("cosine", 4), rtol=1e-5)


def test_the_cap_limits_what_thresholding_divides_by():
    x0 = jnp.asarray(3 * normal(2, 8, 8, 3))
    p95 = Percentile.of(95.0, 8 * 8 * 3)
    free, capped = (np.asarray(threshold(x0, "dynamic", p95, cap)) for cap in (np.inf, 1.5))
    np.testing.assert_allclose(capped, np.clip(x0, -1.5, 1.5) / 1.5, rtol=1e-6)
    assert not np.allclose(free, capped)
    static = threshold(x0, "dynamic", p95, 1.0)
    np.testing.assert_array_equal(static, threshold(x0, "static", p95))


def test_guidance_leaves_the_variance_of_the_conditional_half():
    z = jnp.asarray(normal(2, 4, 4, 3))
    outputs, fraction = jnp.asarray(normal(2, 4, 4, 4, 3, seed=1))
    predicted = Predicted(outputs, fraction)
    denoise = make_denoise(lambda *_: predicted, "eps", jnp.full(1, 3.0), lambda x0: x0)
    estimate = denoise(z, jnp.zeros(2), jnp.int32(0))
    np.testing.assert_array_equal(estimate.fraction, fraction[:2])
    eps = 3 * outputs[:2] - 2 * outputs[2:]
    alpha, sigma = 2 * [0.5**0.5]
    np.testing.assert_allclose(estimate.value, (z - sigma * eps) / alpha, rtol=1e-4, atol=1e-5)


def test_enlarging_keeps_the_corners_and_is_linear_between_them():
    x = normal(1, 3, 2, 1)
    large = np.asarray(process.enlarge(jnp.asarray(x), (5, 4)))
    np.testing.assert_allclose(large[:, ::2, ::3], x, rtol=1e-6)
    np.testing.assert_allclose(large[:, 1, 0], (x[:, 0, 0] + x[:, 1, 0]) / 2, rtol=1e-5)


def test_enlarging_equals_pytorch():
    torch = pytest.importorskip("torch")
    x = normal(2, 5, 7, 3)
    expected = torch.nn.functional.interpolate(
        torch.tensor(x.transpose(0, 3, 1, 2)), (20, 28), mode="bilinear", align_corners=True
    )
    large = process.enlarge(jnp.asarray(x), (20, 28))
    np.testing.assert_allclose(large, expected.numpy().transpose(0, 2, 3, 1), atol=2e-6)


# -- Against diffusers' schedulers, with the same network and the same noise ---------------------

SHAPE = (2, 8, 8, 3)
STEPS = (990, 700, 420, 200, 80, 20, 0)


def network(z, step):
    """Any function of picture and step will do: eps and variance, as large as a network's."""
    wave = np.sin(np.arange(3) + 0.01 * step)
    return 0.9 * z + 0.2 * wave, np.tanh(z) * wave


def ours(monkeypatch, sampler, start, noises):
    """A sampler over STEPS from `start`; step i draws `noises[i]`."""
    monkeypatch.setattr(samplers, "noise", lambda keys, step, z: jnp.asarray(noises)[step.index])

    def predict(z, log_snrs):
        step = chain.step_of(log_snrs)[:, None, None, None]
        wave = jnp.sin(jnp.arange(3.0) + 0.01 * step)
        return Predicted(0.9 * z + 0.2 * wave, (jnp.tanh(z) * wave + 1) / 2)

    p95 = Percentile.of(95.0, start[0].size)
    denoise = make_denoise(predict, "eps", None, lambda x0: threshold(x0, "dynamic", p95, 1.5))
    grid = samplers.time_grid("cosine_chain", len(STEPS), timesteps=STEPS)
    keys = jax.random.split(jax.random.key(0), len(start))
    return sampler_loop.sample(sampler, denoise, jnp.asarray(start), grid, keys)


def theirs(scheduler, start, noises, set_timesteps, **options):
    """A scheduler of diffusers over its steps; the noise drawn is that of the step."""
    torch = pytest.importorskip("torch")
    to_torch = lambda x: torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), dtype=torch.float32)  # noqa: E731
    set_timesteps(scheduler)
    z = start
    for i, step in enumerate(scheduler.timesteps.tolist()):
        eps, variance = network(z, step)
        learned = scheduler.config.get("variance_type") == "learned_range"
        output = np.concatenate([eps, variance], -1) if learned else eps
        kwargs = {"generator": to_torch(noises[i])} if learned else options
        z = scheduler.step(to_torch(output), step, to_torch(z), **kwargs).prev_sample
        z = z.numpy().transpose(0, 2, 3, 1)
    return z


@pytest.fixture
def diffusers(monkeypatch):
    """diffusers, whose DDPM takes a step's noise in the place of the generator."""
    pytest.importorskip("torch")
    module = pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_ddpm

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda shape, generator, **_: generator)
    return module


SHARED = {
    "beta_schedule": "squaredcos_cap_v2", "thresholding": True, "sample_max_value": 1.5,
    "dynamic_thresholding_ratio": 0.95,
}  # fmt: skip


def draws():
    return normal(*SHAPE), normal(len(STEPS), *SHAPE, seed=1)


def set_steps(scheduler):
    scheduler.set_timesteps(timesteps=list(STEPS))


def test_ddpm_with_learned_range_equals_diffusers(diffusers, monkeypatch):
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", **SHARED)
    start, noises = draws()
    expected = theirs(scheduler, start, noises, set_steps)
    result = ours(monkeypatch, samplers.Ancestral(), start, noises)
    np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize("step", [999, 500, 40])
def test_one_reverse_step_equals_diffusers(diffusers, step):
    """To the step 20 below; mean and noise apart, so that neither hides the other."""
    torch = pytest.importorskip("torch")
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", **SHARED)
    scheduler.set_timesteps(timesteps=[step, step - 20, 0])
    z, noise = normal(*SHAPE), normal(*SHAPE, seed=1)
    eps, variance = network(z, step)
    to_torch = lambda x: torch.tensor(x.transpose(0, 3, 1, 2))  # noqa: E731
    log_snr_t, log_snr_s = jnp.asarray(chain.LOG_SNRS[[step, step - 20]])
    z_jax, eps_jax, gamma = (jnp.asarray(x, jnp.float32) for x in (z, eps, (variance + 1) / 2))
    x0 = process.to_x0(eps_jax, z_jax, jnp.full(2, log_snr_t), "eps")
    x0 = threshold(x0, "dynamic", Percentile.of(95.0, x0[0].size), 1.5)
    mean = samplers.posterior_mean(z_jax, x0, log_snr_t, log_snr_s)
    std = samplers.ancestral_std(log_snr_t, log_snr_s, gamma)
    for drawn in (np.zeros_like(noise), noise):
        output = to_torch(np.concatenate([eps, variance], -1).astype(np.float32))
        result = scheduler.step(output, step, to_torch(z), generator=to_torch(drawn))
        expected = result.prev_sample.numpy().transpose(0, 2, 3, 1)
        # Their products of a thousand float32 factors are off by as much.
        np.testing.assert_allclose(mean + std * drawn, expected, rtol=1e-5, atol=1e-5)


def test_ddim_over_the_chain_equals_diffusers(diffusers, monkeypatch):
    """Seven steps, 142 apart; its direction too is that of the thresholded x0."""
    scheduler = diffusers.DDIMScheduler(set_alpha_to_one=True, **SHARED)
    start, noises = draws()
    expected = theirs(
        scheduler, start, noises, lambda s: s.set_timesteps(7), use_clipped_model_output=True
    )
    monkeypatch.setattr(f"{__name__}.STEPS", chain.spaced("leading", 7))
    result = ours(monkeypatch, samplers.DDIM(), start, noises)
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_dpm_solver_over_the_chain_equals_diffusers(diffusers, monkeypatch):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", **SHARED
    )
    start, noises = draws()
    expected = theirs(scheduler, start, noises, lambda s: s.set_timesteps(7))
    monkeypatch.setattr(f"{__name__}.STEPS", tuple(scheduler.timesteps.tolist()))
    result = ours(monkeypatch, samplers.DPMSolverPP2M(), start, noises)
    np.testing.assert_allclose(result, expected, atol=1e-4)
