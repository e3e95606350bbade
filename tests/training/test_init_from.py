"""A new run that starts from the weights of a trained stage."""

import functools

import jax
import numpy as np
import pytest
import runs
import tiny

from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.loop import Trainer, run
from imagen_jax.weights.stage_file import save_stage_file


@pytest.fixture
def stage(tmp_path):
    """An exported stage and what it holds."""
    config, path = tiny.stage(), tmp_path / "stage.safetensors"
    params = tiny.random_params(config)
    save_stage_file(path, config, params, "float32")
    return path, params


def start(config, path):
    return Trainer(config, make_mesh(config.mesh)).init_from(path, jax.random.key(0))


def test_parameters_and_ema_are_the_stages_and_the_optimizer_is_new(stage):
    path, params = stage
    state = start(tiny.stage(), path)
    for mine in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(mine), params)
    assert state.step == 0
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim > 0]
    assert moments
    assert not any(np.any(x) for x in moments)


def test_a_run_starts_from_the_stage_and_goes_on_from_its_own_checkpoint(stage, tmp_path):
    """A step of Adam moves a parameter by its rate at most."""
    path, params = stage
    config = tiny.stage(data=tiny.folder(tmp_path / "data"))
    other = tmp_path / "other.safetensors"
    save_stage_file(other, config, tiny.random_params(config, seed=1), "float32")
    for steps, origin in ((1, path), (2, other)):
        run(tiny.replace(config, training={"num_steps": steps}), tmp_path / "run", origin)
        state = runs.saved(config, tmp_path / "run")
        assert state.step == steps
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1.01e-3 * steps)
        jax.tree.map(close, state.params, params)


@pytest.mark.parametrize(
    ("unet", "says"),
    [({"embed_dim": 16}, "has shape .* this config has"), ({"num_res_blocks": (2,)}, "structure")],
)
def test_another_network_is_an_error(stage, unet, says):
    with pytest.raises(UsageError, match=says):
        start(tiny.stage(unet=unet), stage[0])
