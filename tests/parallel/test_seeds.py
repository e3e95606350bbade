"""A seed draws the same whatever JAX's variables say."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import imagen_jax
from imagen_jax.diffusion.noise import normal
from imagen_jax.pipeline.sampling import picture_keys

DRAW = """
import sys
import jax
from imagen_jax.diffusion.noise import normal
from imagen_jax.pipeline.sampling import picture_keys
drawn = jax.jit(lambda keys: normal(keys, (3, 3, 3)))(picture_keys(5, 64, 2))
sys.stdout.buffer.write(drawn.tobytes())
"""
VARIABLES = {
    "rbg": {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
    "unsafe rbg": {"JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg"},
    "not partitionable": {"JAX_THREEFRY_PARTITIONABLE": "0"},
    "64 bits": {"JAX_ENABLE_X64": "1"},
}


@pytest.mark.parametrize("name", VARIABLES)
def test_noise_of_a_seed_is_the_same_whatever_kind_of_keys_a_machine_has_chosen(name):
    package = str(Path(imagen_jax.__file__).parents[1])
    places = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", DRAW], env=os.environ | {"PYTHONPATH": places} | VARIABLES[name],
        capture_output=True, timeout=240, check=True,
    )  # fmt: skip
    pictures = np.asarray(normal(picture_keys(5, 64, 2), (3, 3, 3)))
    found = np.frombuffer(done.stdout, np.float32)
    np.testing.assert_allclose(found, pictures.ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5, 3), (64, 64, 3), (7, 2, 1)])
def test_a_pictures_noise_is_what_its_key_draws_in_the_shape_of_a_picture(shape):
    """However it is drawn: noise of a seed is part of what makes a picture come again."""
    keys = picture_keys(5, 64, 2)
    drawn = [jax.random.normal(key, shape, np.float32) for key in keys]
    np.testing.assert_array_equal(normal(keys, shape), np.stack(drawn))
