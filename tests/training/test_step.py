"""The training step: it learns, it is reproducible, and its parts are their equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from imagen_jax.config import MeshConfig, OptimizerConfig
from imagen_jax.diffusion.process import Predicted
from imagen_jax.networks import Networks, build_networks
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.objective import by_time, diffusion_loss, mean_loss
from imagen_jax.training.optim import learning_rate, make_optimizer, update_ema
from imagen_jax.training.trainer import Trainer

KEY = jax.random.key(7)


# One config for most tests, because compiling is what takes time: x0 without caption dropout.
CONFIG = tiny.stage(
    diffusion={"prediction": "x0"},
    optimizer={"learning_rate": 1e-2},
    training={"caption_dropout": 0.0},
)


def one_device(config):
    return Trainer(config, make_mesh(MeshConfig(), jax.devices()[:1]))


def take_step(trainer, state, batch, key=KEY):
    return jax.device_get(trainer.step(state, {}, batch, key))


@pytest.fixture(scope="module")
def base():
    return one_device(CONFIG)


def assert_trees_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.slow
def test_the_same_key_gives_the_same_step_and_another_does_not(base):
    state, batch = tiny.state(CONFIG), tiny.batch(CONFIG)
    (first, metrics), (again, same) = (take_step(base, state, batch) for _ in range(2))
    assert_trees_equal(first, again)
    assert_trees_equal(metrics, same)
    _, other = take_step(base, state, batch, jax.random.key(8))
    assert other["loss"] != metrics["loss"]


def test_the_same_key_draws_anew_at_every_step(base):
    batch = tiny.batch(CONFIG)
    losses = {float(take_step(base, tiny.state(CONFIG, n), batch)[1]["loss"]) for n in range(3)}
    assert len(losses) == 3


def test_every_parameter_learns(base):
    state = tiny.state(CONFIG)
    after, _ = take_step(base, state, tiny.batch(CONFIG))
    same = jax.tree.map(lambda old, new: bool(np.array_equal(old, new)), state.params, after.params)
    still = [path for path, value in jax.tree_util.tree_leaves_with_path(same) if value]
    assert not still
    assert after.step == 1


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (90, 0.91), (10**6, 0.9999)])
def test_ema_is_its_formula(base, step, decay):
    """ema <- d ema + (1 - d) params with the new parameters, d = min(0.9999, (1+n)/(10+n))."""
    state = tiny.state(CONFIG, step)
    after, _ = take_step(base, state, tiny.batch(CONFIG))
    check = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda ema, old, new: check(ema, decay * old + (1 - decay) * new),
        after.ema, state.ema, after.params,
    )  # fmt: skip


@pytest.mark.slow
def test_the_gradient_norm_and_parameter_norm_are_global_l2_norms(base):
    state, batch = tiny.state(CONFIG), tiny.batch(CONFIG)
    after, metrics = take_step(base, state, batch)
    squares = sum(
        float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(after.params)
    )
    assert metrics["parameter_norm"] == pytest.approx(squares**0.5, rel=1e-5)
    loss = functools.partial(mean_loss, diffusion_loss, CONFIG, base.networks)
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 8)
    gradient = jax.jit(jax.grad(loss))(state.params, {}, batch, keys)
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)


@pytest.mark.slow
def test_accumulation_equals_one_batch_up_to_rounding(base):
    config = tiny.replace(CONFIG, training={"accumulation_steps": 2})
    state, batch = tiny.state(config), tiny.batch(config)
    whole, one = take_step(base, state, batch)
    parts, other = take_step(one_device(config), state, batch)
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    first_moment = lambda state: state.opt_state[1][0].mu  # noqa: E731
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
        first_moment(parts), first_moment(whole),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_learns_from_all_rows_with_a_weight_and_from_no_other(base, parts):
    """Its gradient is that of the mean over them; what stands in the others does not matter."""
    config = tiny.replace(CONFIG, training={"accumulation_steps": parts})
    trainer = base if parts == 1 else one_device(config)
    state, batch = tiny.state(config), tiny.batch(config)
    batch["weight"][[1, 2, 6]] = 0
    after, metrics = take_step(trainer, state, batch)
    others = tiny.batch(config, seed=1)
    for name in ("image", "token_ids", "mask"):
        batch[name] = np.where(batch["weight"].reshape(-1, *[1] * (batch[name].ndim - 1)) > 0,
                               batch[name], others[name])  # fmt: skip
    same, _ = take_step(trainer, state, batch)
    assert_trees_equal(after, same)

    def mean_of_good(params, batch):
        keys = jax.random.split(jax.random.fold_in(KEY, 0), 8)
        losses, _ = diffusion_loss(config, base.networks, params, {}, batch, keys)
        return losses[jnp.array([0, 3, 4, 5, 7])].mean()

    loss, gradient = jax.jit(jax.value_and_grad(mean_of_good))(state.params, batch)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    assert metrics["bin_losses"].sum() == pytest.approx(float(loss), rel=1e-5)
    assert metrics["bin_shares"].sum() == pytest.approx(1)


def test_a_batch_without_any_picture_changes_nothing(base):
    state, batch = tiny.state(CONFIG), tiny.batch(CONFIG)
    batch["weight"][:] = 0
    after, metrics = take_step(base, state, batch)
    assert metrics["skipped"] == 1
    assert_trees_equal(after.replace(step=0), jax.device_get(state.replace(step=0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(base, bad):
    state, batch = tiny.state(CONFIG, 5), tiny.batch(CONFIG)
    broken = jax.tree.map(lambda x: x, state)  # The trees anew; their leaves are not changed.
    broken.params["unet"]["conv_out"]["bias"] = state.params["unet"]["conv_out"]["bias"] + bad
    after, metrics = take_step(base, broken, batch)
    assert metrics["skipped"] == 1 and after.step == 6
    assert_trees_equal(after.replace(step=5), jax.device_get(broken.replace(step=5)))
    assert take_step(base, state, batch)[1]["skipped"] == 0


def test_the_logged_rate_is_that_which_an_update_has():
    """The schedule stands still where an update is skipped."""
    config = tiny.replace(CONFIG, optimizer={"warmup_steps": 4})
    trainer, state = Trainer(config, make_mesh(config.mesh)), tiny.state(config)
    rates = []
    for weight in (1.0, 0.0, 1.0, 1.0):
        batch = tiny.batch(config)
        batch["weight"][:] = weight
        state, metrics = take_step(trainer, state, batch)
        rates.append(float(metrics["learning_rate"]))
    shares = np.array(rates) / config.optimizer.learning_rate
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.5, 0.75], rtol=1e-6)


def test_an_update_that_overflows_is_skipped_too(base):
    """Loss and gradient are finite, and the sum of an optimizer's moments is not."""
    state, batch = tiny.state(CONFIG, 5), tiny.batch(CONFIG)
    _, (adam, *_) = state.opt_state
    adam.mu["unet"]["conv_out"]["bias"] = np.full_like(adam.mu["unet"]["conv_out"]["bias"], np.inf)
    after, metrics = take_step(base, state, batch)
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    assert metrics["skipped"] == 1
    assert_trees_equal(after.params, state.params)


def test_losses_by_time_add_up_to_the_loss(base):
    _, metrics = take_step(base, tiny.state(CONFIG), tiny.batch(CONFIG))
    assert metrics["bin_losses"].sum() == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert metrics["bin_shares"].sum() == pytest.approx(1)


def test_a_picture_is_counted_in_the_bin_of_its_time():
    losses, times = jnp.array([1.0, 2.0, 4.0, 8.0]), jnp.array([0.0, 0.11, 0.19, 1.0])
    bins = by_time(losses, times, jnp.ones(4))
    np.testing.assert_allclose(bins["bin_losses"], [0.25, 1.5, *[0] * 7, 2])
    np.testing.assert_allclose(bins["bin_shares"], [0.25, 0.5, *[0] * 7, 0.25])
    bins = by_time(losses, times, jnp.array([2.0, 0.0, 2.0, 0.0]))
    np.testing.assert_allclose(bins["bin_losses"], [0.5, 2.0, *[0] * 8])
    np.testing.assert_allclose(bins["bin_shares"], [0.5, 0.5, *[0] * 8])


def test_the_distance_of_the_ema_is_relative_to_the_parameters(base):
    after, metrics = take_step(base, tiny.state(CONFIG), tiny.batch(CONFIG))
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    params, ema = flat(after.params), flat(after.ema)
    expected = np.linalg.norm(ema - params) / np.linalg.norm(params)
    assert metrics["ema_distance"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_one_batch_overfits(base):
    """Plain pictures whose colour only the caption tells: x0 is learned through the text."""
    state, batch = tiny.state(CONFIG), tiny.batch(CONFIG)
    colours = np.random.default_rng(1).integers(0, 2, (8, 1, 1, 3)) * 255
    batch["image"] = np.broadcast_to(colours, (8, 16, 16, 3)).astype(np.uint8)
    losses = []
    for _ in range(200):
        state, metrics = base.step(state, {}, batch, KEY)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-20:]) < np.mean(losses[:3]) / 20


@pytest.mark.parametrize(("dropout", "matters"), [(1.0, False), (0.0, True)])
def test_dropped_captions_do_not_matter(dropout, matters):
    """At caption_dropout 1 neither tokens nor their number change the loss."""
    config = tiny.super_resolution(training={"caption_dropout": dropout})
    loss = jax.jit(functools.partial(mean_loss, diffusion_loss, config, build_networks(config)))
    params, batch = tiny.random_params(config), tiny.batch(config)
    other = {**batch, **{name: tiny.batch(config, seed=1)[name] for name in ("token_ids", "mask")}}
    keys = jax.random.split(KEY, 8)
    losses = [float(loss(params, {}, captions, keys)) for captions in (batch, other)]
    assert (losses[0] != losses[1]) == matters


def test_the_network_hears_the_aug_level_of_the_noise_that_it_sees(monkeypatch):
    """Of flat grey pictures mean and deviation tell alpha and sigma, hence the level."""
    config = tiny.super_resolution(
        resolution=64, low_resolution=32, diffusion={"max_aug_level": 0.5}
    )
    heard = {}

    def encode(self, params, told):
        heard.update(low_res=told.pictures["low_res"], aug_level=told.numbers["aug_level"])

    monkeypatch.setattr(Networks, "embed", lambda *_: jnp.zeros((16, tiny.LENGTH, 4)))
    monkeypatch.setattr(Networks, "encode", encode)
    monkeypatch.setattr(Networks, "predict", lambda *arguments: Predicted(arguments[2]))
    batch = jax.tree.map(jnp.asarray, tiny.batch(config, 16))
    batch["low_res"] = jnp.full_like(batch["low_res"], 204)  # 0.6 of -1..1.
    keys = jax.random.split(KEY, 16)
    mean_loss(diffusion_loss, config, build_networks(config), {}, {}, batch, keys)
    heard = jax.device_get(heard)
    levels = heard["aug_level"]
    assert 0 <= levels.min() < 0.15 and 0.35 < levels.max() <= 0.5
    alpha, sigma = np.cos(np.pi / 2 * levels), np.sin(np.pi / 2 * levels)
    # 3,072 values: five standard errors are 0.09 of the mean and 6.4 % of the deviation.
    np.testing.assert_allclose(heard["low_res"].mean((1, 2, 3)), 0.6 * alpha, atol=0.09)
    np.testing.assert_allclose(heard["low_res"].std((1, 2, 3)), sigma, rtol=0.064)


def test_learning_rate_warms_up_and_stays():
    """Linear from 1/warmup to the rate (the first step learns), then constant."""
    rate = learning_rate(OptimizerConfig(learning_rate=2e-4, warmup_steps=10))
    steps = [0, 4, 9, 10, 1000]
    expected = [2e-5, 1e-4, 2e-4, 2e-4, 2e-4]
    np.testing.assert_allclose([rate(step) for step in steps], expected, rtol=1e-5)


def test_learning_rate_decays_along_a_cosine_after_the_warm_up():
    rate = learning_rate(OptimizerConfig(learning_rate=1.0, warmup_steps=5, decay_steps=100))
    steps = np.array([5, 30, 55, 80, 105, 500])
    expected = (1 + np.cos(np.pi * np.minimum((steps - 5) / 100, 1))) / 2
    np.testing.assert_allclose([rate(step) for step in steps], expected, atol=1e-6)
    np.testing.assert_allclose(rate(0), 0.2, rtol=1e-5)


def test_no_warm_up_starts_at_the_rate():
    assert learning_rate(OptimizerConfig(learning_rate=0.5, warmup_steps=0))(0) == 0.5


def updates_of(config, params, gradients):
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["w"])


def test_adam_with_clipping_is_its_equation():
    """Kingma & Ba 2015 with 0.9, 0.999, 1e-8, on gradients of at most norm 1."""
    config = OptimizerConfig(name="adam", learning_rate=0.01, warmup_steps=0, clip_global_norm=1.0)
    rng = np.random.default_rng(0)
    w, gradients = rng.normal(size=4), [rng.normal(size=4) * scale for scale in (0.1, 10.0, 1.0)]
    result = updates_of(
        config, {"w": jnp.asarray(w, jnp.float32)},
        [{"w": jnp.asarray(g, jnp.float32)} for g in gradients],
    )  # fmt: skip
    m = v = np.zeros(4)
    for n, gradient in enumerate(gradients, start=1):
        g = gradient / max(1.0, np.linalg.norm(gradient))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.01 * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
    np.testing.assert_allclose(result, w, rtol=1e-5)


def test_adafactor_moves_by_the_rate_times_the_parameters_scale():
    """Its first step on an unfactored vector is -rate * rms(w) * sign(g) (Shazeer & Stern 2018)."""
    config = OptimizerConfig(
        name="adafactor", learning_rate=0.01, warmup_steps=0, clip_global_norm=None
    )
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=6), rng.normal(size=6)
    result = updates_of(
        config, {"w": jnp.asarray(w, jnp.float32)}, [{"w": jnp.asarray(g, jnp.float32)}]
    )
    expected = w - 0.01 * np.sqrt(np.mean(w**2)) * np.sign(g)
    np.testing.assert_allclose(result, expected, rtol=1e-4)


def test_the_first_moment_has_the_configured_dtype():
    config = OptimizerConfig(name="adam", moment_dtype="bfloat16")
    adam = make_optimizer(config).init({"w": jnp.ones(3)})[1][0]
    assert (adam.mu["w"].dtype, adam.nu["w"].dtype) == (jnp.bfloat16, jnp.float32)


def test_ema_with_decay_zero_is_the_parameters():
    ema = update_ema({"w": jnp.ones(3)}, {"w": jnp.full(3, 2.0)}, jnp.int32(50), 0.0)
    np.testing.assert_array_equal(ema["w"], 2.0)
