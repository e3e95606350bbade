"""Parameters that a run leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
import tiny
from flax.traverse_util import flatten_dict

from imagen_jax.config import MeshConfig, OptimizerConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.loop import run
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.trainer import Trainer
from imagen_jax.weights.stage_file import save_stage_file

FREEZE = ("text_encoder.*", "unet.down.*", "unet.*.norm_1.scale")


def names(tree) -> dict[str, np.ndarray]:
    """Name -> array."""
    return {".".join(map(str, path)): x for path, x in flatten_dict(tree).items()}


def is_frozen(name: str) -> bool:
    """Written without patterns."""
    return name.startswith(("text_encoder.", "unet.down.")) or (
        name.startswith("unet.") and name.endswith(".norm_1.scale")
    )


def take_step(**optimizer):
    """The state before and after a step, and its metrics."""
    optimizer = {"learning_rate": 1e-2, "clip_global_norm": None, **optimizer}
    config = tiny.stage(training={"caption_dropout": 0.0}, optimizer=optimizer)
    trainer = Trainer(config, make_mesh(MeshConfig(), jax.devices()[:1]))
    state = tiny.state(config)
    return state, *jax.device_get(trainer.step(state, {}, tiny.batch(config), jax.random.key(7)))


@pytest.fixture(scope="module")
def steps():
    """One with frozen parameters, and one without."""
    return take_step(freeze=FREEZE), take_step()


@pytest.mark.slow
def test_frozen_parameters_stay_and_their_ema_equals_them(steps):
    before, after, _ = steps[0]
    old, new, ema = (names(tree) for tree in (before.params, after.params, after.ema))
    frozen = set(filter(is_frozen, old))
    assert 10 < len(frozen) < len(old) - 10
    assert {name for name in old if np.array_equal(old[name], new[name])} == frozen
    assert {name for name in old if np.array_equal(ema[name], new[name])} == frozen


@pytest.mark.slow
def test_the_others_learn_as_if_nothing_was_frozen(steps):
    (_, some, _), (_, every, _) = steps
    some, every = names(some.params), names(every.params)
    for name in filter(lambda name: not is_frozen(name), some):
        np.testing.assert_allclose(some[name], every[name], rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.slow
def test_frozen_parameters_have_no_moments_and_no_part_in_the_norm(steps):
    (before, some, metrics), (_, every, other) = steps
    frozen = sum(x.size for name, x in names(before.params).items() if is_frozen(name))
    sizes = [sum(x.size for x in jax.tree.leaves(state.opt_state)) for state in (some, every)]
    assert sizes[0] <= sizes[1] - frozen
    assert 0 < metrics["gradient_norm"] < other["gradient_norm"]
    assert metrics["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_clipping_counts_what_is_trained_only():
    """Adam's first moment after a step is a tenth of the clipped gradient."""
    config = OptimizerConfig(name="adam", clip_global_norm=1.0, freeze=("a",))
    optimizer = make_optimizer(config)
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    gradient = {"a": jnp.full(3, 100.0), "b": jnp.array([3.0, 4.0])}
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["a"], 0)
    [moment] = [x for x in jax.tree.leaves(optax.tree.get(state, "mu"))]
    np.testing.assert_allclose(moment, [0.06, 0.08], rtol=1e-6)


def test_adafactor_has_no_moments_of_what_is_frozen_either():
    """Of a matrix it keeps a mean of squares per row and per column."""
    config = OptimizerConfig(name="adafactor", freeze=("*.frozen",))
    params = {"a": {"frozen": jnp.ones((300, 200)), "trained": jnp.ones((300, 200))}}
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    assert sum(x.size for x in jax.tree.leaves(state) if x.size > 1) == 300 + 200
    updates, _ = optimizer.update(params, state, params)
    assert not np.any(updates["a"]["frozen"]) and np.all(updates["a"]["trained"])


@pytest.mark.parametrize(
    ("freeze", "says"),
    [
        (("unet.nothing",), r"'unet\.nothing', which fits no parameter; .* like text_encoder\."),
        (("unet.*", "unet"), "'unet', which fits no parameter"),
        (("*",), "leaves nothing to train"),
    ],
)
def test_a_pattern_that_fits_nothing_or_all_is_an_error(freeze, says):
    config = tiny.stage(optimizer={"freeze": freeze})
    with pytest.raises(UsageError, match=says):
        Trainer(config, make_mesh(config.mesh))


@pytest.mark.slow
def test_a_stage_is_fine_tuned_in_part_and_goes_on(tmp_path):
    """From another stage, over a checkpoint."""
    config = tiny.stage(data=tiny.folder(tmp_path / "data"), optimizer={"freeze": FREEZE})
    params, file = tiny.random_params(config), tmp_path / "stage.safetensors"
    save_stage_file(file, config, params, "float32")
    for step in (1, 2):
        run(tiny.replace(config, training={"num_steps": step}), tmp_path / "run", file)
    state = runs.saved(config, tmp_path / "run")
    assert state.step == 2
    for tree in map(names, (state.params, state.ema)):
        same = {name for name, x in names(params).items() if np.array_equal(x, tree[name])}
        assert same == set(filter(is_frozen, tree))
