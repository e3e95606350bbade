"""Guidance at its known weights, thresholding against numpy, and `make_denoise`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.diffusion import guidance, process
from imagen_jax.diffusion.guidance import Percentile
from imagen_jax.diffusion.process import Predicted

LOG_SNR = jnp.array([-3.0, 0.0, 2.0])
KINDS = ["eps", "x0", "v"]
TO_X0, TO_EPS = process.to_x0, process.to_eps
STEP = jnp.int32(0)
PERCENTILE = Percentile.of(99.5, 8 * 8 * 3)


def unchanged(x0):
    return x0


def rescale(x0):
    return guidance.threshold(x0, "dynamic", Percentile.of(90.0, 8 * 8 * 3))


@pytest.fixture
def outputs():
    """z, conditional and unconditional outputs of a network."""
    return tuple(jax.random.normal(jax.random.key(0), (3, 3, 8, 8, 3)))


def predict_from(conditional, unconditional):
    """A network that knows its two answers, and the list of batch sizes it was asked for."""
    sizes = []

    def predict(z, log_snr):
        sizes.append((len(z), len(log_snr)))
        return Predicted(jnp.concatenate([conditional, unconditional])[: len(z)])

    return predict, sizes


def test_weight_one_is_conditional_and_weight_zero_unconditional(outputs):
    _, conditional, unconditional = outputs
    np.testing.assert_array_equal(guidance.guide(conditional, unconditional, 1.0), conditional)
    np.testing.assert_array_equal(guidance.guide(conditional, unconditional, 0.0), unconditional)


def test_guidance_extrapolates_past_the_conditional():
    guided = guidance.guide(jnp.full((1, 1, 1, 1), 3.0), jnp.full((1, 1, 1, 1), 1.0), 7.0)
    np.testing.assert_allclose(guided, 1 + 7 * (3 - 1))


@pytest.mark.parametrize("percentile", [100.0, 99.5, 90.0, 37.0, 0.5])
@pytest.mark.parametrize("number", [1, 2, 192, 1001])
def test_percentile_is_numpys(percentile, number):
    values = np.random.default_rng(0).normal(size=(3, number)).astype(np.float32)
    expected = np.percentile(values.astype(np.float64), percentile, axis=1)
    np.testing.assert_allclose(
        Percentile.of(percentile, number)(jnp.asarray(values)), expected, atol=1e-6
    )


def test_percentiles_from_99_up_share_what_is_compiled():
    traced = []

    @jax.jit
    def select(percentile, values):
        traced.append(percentile.kept)
        return percentile(values)

    values = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    for p in (99.0, 99.5, 99.9, 100.0):
        expected = np.percentile(values, p, axis=1)
        np.testing.assert_allclose(select(Percentile.of(p, 5000), values), expected, atol=1e-6)
    assert len(traced) == 1 and traced[0] < 60


def test_dynamic_thresholding_is_numpys_for_each_picture():
    scales = np.array([0.5, 2.0, 6.0], np.float32)[:, None, None, None]
    x0 = scales * np.random.default_rng(1).normal(size=(3, 8, 8, 3)).astype(np.float32)
    actual = guidance.threshold(jnp.asarray(x0), "dynamic", Percentile.of(95.0, 8 * 8 * 3))
    for picture, thresholded in zip(x0, actual, strict=True):
        s = max(np.percentile(np.abs(picture), 95.0), 1.0)
        np.testing.assert_allclose(thresholded, np.clip(picture, -s, s) / s, atol=1e-6)


def test_dynamic_thresholding_leaves_a_picture_in_range_alone(outputs):
    x0 = jnp.tanh(outputs[0])
    np.testing.assert_array_equal(guidance.threshold(x0, "dynamic", PERCENTILE), x0)


def test_static_thresholding_clips_and_none_does_nothing(outputs):
    x0 = 3 * outputs[0]
    np.testing.assert_array_equal(guidance.threshold(x0, "static", PERCENTILE), np.clip(x0, -1, 1))
    np.testing.assert_array_equal(guidance.threshold(x0, "none", PERCENTILE), x0)


@pytest.mark.parametrize("kind", KINDS)
def test_denoise_guides_in_eps_space(outputs, kind):
    z, conditional, unconditional = outputs
    predict, sizes = predict_from(conditional, unconditional)
    denoise = guidance.make_denoise(predict, kind, jnp.full(1, 4.0), unchanged)
    eps_c, eps_u = (TO_EPS(output, z, LOG_SNR, kind) for output in (conditional, unconditional))
    expected = TO_X0(4.0 * eps_c - 3.0 * eps_u, z, LOG_SNR, "eps")
    np.testing.assert_allclose(denoise(z, LOG_SNR, STEP).value, expected, rtol=1e-4, atol=1e-3)
    assert sizes == [(6, 6)]


@pytest.mark.parametrize("kind", KINDS)
def test_denoise_without_guidance_asks_for_the_conditional_batch_alone(outputs, kind):
    z, conditional, unconditional = outputs
    predict, sizes = predict_from(conditional, unconditional)
    denoise = guidance.make_denoise(predict, kind, None, unchanged)
    expected = TO_X0(conditional, z, LOG_SNR, kind)
    np.testing.assert_allclose(denoise(z, LOG_SNR, STEP).value, expected, rtol=1e-6)
    assert sizes == [(3, 3)]


def test_denoise_gives_both_halves_the_same_pictures_and_noise_levels(outputs):
    """A network that ignores the text answers the same twice, and no weight changes that."""

    def predict(z, log_snr):
        return Predicted(jnp.tanh(z) * log_snr[:, None, None, None])

    z = outputs[0]
    plain = guidance.make_denoise(predict, "v", None, rescale)(z, LOG_SNR, STEP).value
    guided = guidance.make_denoise(predict, "v", jnp.full(1, 9.0), rescale)(z, LOG_SNR, STEP).value
    np.testing.assert_allclose(guided, plain, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_denoise_thresholds_the_estimate_of_x(outputs, kind):
    z, conditional, unconditional = outputs
    predict, _ = predict_from(conditional, unconditional)
    scales = jnp.full(1, 4.0)
    raw = guidance.make_denoise(predict, kind, scales, unchanged)(z, LOG_SNR, STEP).value
    denoised = guidance.make_denoise(predict, kind, scales, rescale)(z, LOG_SNR, STEP).value
    assert np.abs(raw).max() > 1.5
    np.testing.assert_allclose(denoised, rescale(raw), atol=1e-6)


def test_each_step_has_its_own_weight(outputs):
    z, conditional, unconditional = outputs
    predict, _ = predict_from(conditional, unconditional)
    denoise = guidance.make_denoise(predict, "x0", jnp.array([1.0, 0.0]), unchanged)
    np.testing.assert_array_equal(denoise(z, LOG_SNR, STEP).value, conditional)
    np.testing.assert_array_equal(denoise(z, LOG_SNR, STEP + 1).value, unconditional)


def test_guidance_may_be_off_outside_an_interval_of_times_or_in_every_other_step():
    times = np.array([1.0, 0.8, 0.6, 0.4, 0.2])

    def scales(*of, **named):
        return guidance.guidance_scales(15.0, guidance.guided_steps(times, *of, **named))

    assert scales().tolist() == [15] * 5
    assert scales(interval=(0.3, 0.8)).tolist() == [1, 15, 15, 15, 1]
    assert scales(oscillates_from=2).tolist() == [15, 15, 1, 15, 1]
    assert scales((0.3, 0.9), 1).tolist() == [1, 1, 15, 1, 1]


def test_denoise_is_float32_when_the_network_is_not(outputs):
    """1000 is exact in bfloat16, 7 * 1000 - 6 * 992 is 1056 there."""
    z = outputs[0]
    conditional = jnp.full(z.shape, 1000.0, jnp.bfloat16)
    unconditional = jnp.full(z.shape, 992.0, jnp.bfloat16)
    predict, _ = predict_from(conditional, unconditional)
    denoised = guidance.make_denoise(predict, "x0", jnp.full(1, 7.0), unchanged)(
        z, LOG_SNR, STEP
    ).value
    assert denoised.dtype == jnp.float32
    np.testing.assert_array_equal(denoised, np.full(z.shape, 7 * 1000.0 - 6 * 992.0))


@pytest.mark.parametrize("guided", [True, False])
def test_pictures_are_guided_by_a_weight_of_their_own(outputs, guided):
    """eps_0 + s (eps_p - eps_0) + w (eps_c - eps_p); without text's guidance eps_0 has the text."""
    z, conditional, without_text = outputs
    nothing, w, s = -z, 3.0, 2.5
    parts = [conditional, without_text, nothing] if guided else [conditional, nothing]
    sizes = []

    def predict(z, log_snr):
        sizes.append(len(z))
        return Predicted(jnp.concatenate(parts))

    denoise = guidance.make_denoise(
        predict, "x0", jnp.array([w]) if guided else None, unchanged,
        picture_scales=jnp.array([s]),
    )  # fmt: skip
    found = denoise(z, LOG_SNR, STEP).value
    with_pictures = without_text if guided else conditional
    expected = nothing + s * (with_pictures - nothing)
    expected += w * (conditional - without_text) if guided else 0
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sizes == [3 * len(parts)]


def test_a_projection_without_limits_is_guidance(outputs):
    _, conditional, unconditional = outputs
    projected, _ = guidance.Projection(1.0, np.inf)(conditional, unconditional, jnp.float32(5.0))
    expected = guidance.guide(conditional, unconditional, 5.0)
    np.testing.assert_allclose(projected, expected, rtol=1e-5, atol=1e-5)


def test_a_projection_drops_what_lies_along_the_estimate_and_limits_the_rest(outputs):
    """Of each picture by itself, in float64."""
    _, conditional, unconditional = (np.float64(x) for x in outputs)
    unconditional[0] = 1.001 * conditional[0]  # Nothing but a part along it, shorter than r.
    found, _ = guidance.Projection(0.25, 2.0)(
        jnp.float32(conditional), jnp.float32(unconditional), jnp.float32(5.0)
    )
    for c, u, picture in zip(conditional, unconditional, found, strict=True):
        d = c - u
        d *= min(1.0, 2.0 / np.linalg.norm(d))
        along = np.sum(d * c) / np.sum(c * c) * c
        assert abs(np.sum((d - along) * c)) < 1e-9
        np.testing.assert_allclose(picture, c + 4.0 * (d - along + 0.25 * along), atol=1e-5)
    far = np.linalg.norm(found[1] - conditional[1])
    assert far <= 4 * 2.0 + 1e-4 < 4 * np.linalg.norm(conditional[1] - unconditional[1])


def test_a_projection_of_nothing_is_finite():
    zeros = jnp.zeros((1, 2, 2, 3))
    assert np.all(guidance.Projection(0.0, 1.0)(zeros, zeros, jnp.float32(3.0))[0] == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_denoise_projects_estimates_of_x_and_tells_the_one_without_text(outputs, kind):
    z, conditional, unconditional = outputs
    predict, _ = predict_from(conditional, unconditional)
    projection = guidance.Projection(0.0, 3.0)
    of = (predict, kind, jnp.full(1, 4.0), unchanged, None, None, projection)
    predicted = guidance.make_denoise(*of, jnp.array([True]))(z, LOG_SNR, STEP)
    x_c, x_u = (TO_X0(output, z, LOG_SNR, kind) for output in (conditional, unconditional))
    expected, _ = projection(x_c, x_u, jnp.float32(4.0))
    np.testing.assert_allclose(predicted.value, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(predicted.away, x_u)
    unguided = guidance.make_denoise(*of, jnp.array([False]))(z, LOG_SNR, STEP)
    np.testing.assert_array_equal(unguided.away, unguided.value)
    assert guidance.make_denoise(*of)(z, LOG_SNR, STEP).away is None
    assert predicted.difference is None


def test_momentum_adds_the_guided_steps_before(outputs):
    """Algorithm 1 of APG in float64; a step at weight 1 is as if it were not there."""
    weights, beta, eta, r = [4.0, 1.0, 4.0, 7.0], -0.6, 0.25, 9.0
    pairs = jax.random.normal(jax.random.key(1), (4, 2, 3, 8, 8, 3))
    projection = guidance.Projection(eta, r, beta)
    led, expected_led = jnp.zeros((3, 8, 8, 3)), np.zeros((3, 8, 8, 3))
    for step, w in enumerate(weights):
        predict, _ = predict_from(*pairs[step])
        of = (predict, "x0", jnp.array(weights), unchanged, None, None, projection)
        found = guidance.make_denoise(*of)(outputs[0], LOG_SNR, jnp.int32(step), led)
        led, (c, u) = found.difference, np.float64(pairs[step])
        if w == 1:
            np.testing.assert_array_equal(found.value, pairs[step][0])
            continue
        expected_led = c - u + beta * expected_led
        norm = np.sqrt(np.sum(expected_led**2, (1, 2, 3), keepdims=True))
        d = expected_led * np.minimum(1, r / norm)
        inner = lambda a, b: np.sum(a * b, (1, 2, 3), keepdims=True)  # noqa: E731
        along = inner(d, c) / inner(c, c) * c
        np.testing.assert_allclose(found.value, c + (w - 1) * (d - along + eta * along), atol=1e-4)
        np.testing.assert_allclose(led, expected_led, atol=1e-5)
