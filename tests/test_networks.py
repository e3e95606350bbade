"""The shapes of a stage's parameters, which are known before any is made."""

import jax
import pytest
import tiny

from imagen_jax.networks import abstract_params, init_params

CONFIGS = {
    "a base and its encoder": tiny.stage(),
    "a base alone": tiny.stage(text_encoder={"train": False}),
    "super-resolution": tiny.super_resolution(),
    "classes and numbers": tiny.told(classes=4, numbers=("age",)),
    "an adapter": tiny.stage(
        text_encoder={"train": False}, adapter={"rank": 2, "base": "base.safetensors"}
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_they_are_those_of_what_is_made(name):
    made = jax.eval_shape(lambda: init_params(CONFIGS[name], jax.random.key(0)))
    assert jax.tree.leaves(made)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract_params(CONFIGS[name])) == (
        jax.tree.map(lambda x: (x.shape, x.dtype), made)
    )


def test_what_a_caller_changes_is_nobody_elses():
    config = CONFIGS["a base and its encoder"]
    changed = abstract_params(config)
    changed["unet"].clear()
    changed["text_encoder"].clear()
    assert jax.tree.leaves(abstract_params(config)["unet"])
    assert jax.tree.leaves(abstract_params(config)["text_encoder"])
