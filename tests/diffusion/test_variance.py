"""The loss of a predicted variance, against the formulas of its papers written in betas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import chain
from imagen_jax.diffusion.variance import variance_loss

SHAPE = (4, 4, 3)


def divergence(step, x, eps, predicted, fraction):
    """Mean KL in bits, in float64: Ho et al. 2020, eq. 6 and 7, and Nichol & Dhariwal, eq. 15."""
    t = np.arange(1001) / 1000
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    bar = np.cumprod(1 - betas)
    beta, now, before = betas[step], bar[step], bar[step - 1]
    z = np.sqrt(now) * x + np.sqrt(1 - now) * eps

    def mean(x):
        own = np.sqrt(before) * beta / (1 - now) * x
        return own + np.sqrt(1 - beta) * (1 - before) / (1 - now) * z

    q = beta * (1 - before) / (1 - now)
    p = np.exp(fraction * np.log(beta) + (1 - fraction) * np.log(q))
    estimate = (z - np.sqrt(1 - now) * predicted) / np.sqrt(now)
    nats = 0.5 * (np.log(p / q) - 1 + q / p + (mean(x) - mean(estimate)) ** 2 / p)
    return nats.mean() / np.log(2)


def loss(fraction, error, steps):
    return variance_loss(
        jnp.float32(fraction), jnp.float32(error), jnp.asarray(chain.LOG_SNRS[steps])
    )


def draw(seed):
    """x, eps, eps_theta and f."""
    rng = np.random.default_rng(seed)
    x, eps, off = rng.normal(size=(3, *SHAPE))
    return x, eps, eps + 0.3 * off, rng.uniform(size=SHAPE)


@pytest.mark.parametrize("step", [1, 2, 10, 300, 700, 990, 999])
def test_it_is_the_divergence_of_one_step_of_the_chain(step):
    x, eps, predicted, fraction = draw(step)
    expected = divergence(step, x, eps, predicted, fraction)
    found = loss(fraction[None], (eps - predicted)[None], [step])
    # In float32 the lambdas of neighbouring steps differ by few of their digits.
    np.testing.assert_allclose(found, [expected], rtol=1e-3)


def test_every_picture_has_its_own_step_and_step_0_has_none():
    steps = np.array([0, 5, 500])
    _, eps, predicted, fraction = map(np.stack, zip(*map(draw, steps), strict=True))
    error = eps - predicted
    found = np.asarray(loss(fraction, error, steps))
    assert found.shape == (3,)
    assert found[0] == 0
    alone = [loss(fraction[[i]], error[[i]], steps[[i]])[0] for i in (1, 2)]
    np.testing.assert_allclose(found[1:], alone, rtol=1e-6)


def test_it_trains_the_variance_alone():
    _, eps, predicted, fraction = draw(0)
    arguments = jnp.float32(fraction[None]), jnp.float32((eps - predicted)[None])
    gradient = jax.grad(lambda *x: loss(*x, [400]).sum(), (0, 1))
    of_fraction, of_error = gradient(*arguments)
    assert np.all(of_error == 0)
    assert np.any(of_fraction != 0)


def test_the_best_variance_is_that_of_the_error():
    """Without error f = 0, the variance of q; with the error of no estimate at all, more."""
    full = lambda x: np.full((1, *SHAPE), x)  # noqa: E731
    fractions = np.linspace(0, 1, 11)
    losses = [[float(loss(full(f), full(e), [3])[0]) for f in fractions] for e in (0.0, 1.0)]
    assert np.argmin(losses[0]) == 0
    assert losses[0][0] == pytest.approx(0, abs=1e-6)
    assert np.argmin(losses[1]) > 5
