"""What a cascade refuses in Python: values of another kind, and what belongs to nothing."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scripts import call, refused, sample

import imagen_jax
from imagen_jax.errors import UsageError
from imagen_jax.weights.stage_file import save_stage_file

CONFIG = tiny.stage(sampling={"num_steps": 1})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("stage") / "base.safetensors"
    save_stage_file(path, CONFIG, tiny.random_params(CONFIG), "float32")
    return path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": 1.5}, "The seed is 1.5; it must be a whole number between 0 and 4294967295"),
        ({"num_steps": 10**5000}, "num_steps is a number of more than 63 bits"),
        ({"guidance_scale": 2**63}, "guidance_scale is a number of more than 63 bits"),
        ({"seed": None}, "The seed is None; it must be a whole number"),
        ({"seed": [1, [2, 3]]}, "The seed is [2, 3]; it must be a whole number"),
        ({"num_images": np.int64(1)}, "A number of pictures or prompts is np.int64(1); it must"),
        ({"seed": True}, "The seed is True; it must be a whole number"),
        ({"seed": np.array(1.0)}, "The seed is array(1.); it must be a whole number"),
        ({"num_images": True}, "A number of pictures or prompts is True; it must be a whole"),
        ({"each": {"seed": 1}}, "each has 'seed'; it must be settings by name"),
        ({"prompt_embeds": [None]}, "prompt_embeds holds something else than what embed gives"),
        ({"prompt_embeds": np.zeros((1, 2))}, "prompt_embeds holds something else"),
        ({"negative_prompt": ["a"]}, "A negative or positive prompt is ['a']; it must be text"),
        ({"guidance_interval": (0,)}, "guidance_interval is (0.0,); it must be two times"),
        ({"guidance_interval": ("0.2", "0.8")}, "it must be a tuple of numbers"),
        ({"guidance_interval": 0.5}, "guidance_interval is 0.5; it must be a tuple of numbers"),
        ({"timesteps": (9.5,)}, "timesteps is (9.5,); it must be a tuple of whole numbers"),
        ({"guidance_oscillates_from": 2.5}, "guidance_oscillates_from is 2.5; it must be a whole"),
        ({"max_threshold": "2"}, "max_threshold is '2'; it must be a number"),
        ({"callback": 3}, "callback is 3; it must be a function"),
        ({"pictures": "a.png"}, "pictures is 'a.png'; each must have a name"),
        ({"pictures": ["a.png"]}, "pictures is ['a.png']; each must have a name"),
        ({"numbers": 3}, "numbers is 3; each must have a name"),
        ({"tile": -5}, "tile is -5; it is of super-resolution stages, and there is none"),
    ],
)
def test_values_of_another_kind_are_refused_before_anything_is_painted(
    options, says, base, no_type_checks
):
    cascade = imagen_jax.load_cascade(base=base)
    with pytest.raises(UsageError, match=re.escape(says)):
        cascade("a red apple", progress=False, **options)


def test_numbers_of_any_type_are_seeds(base, no_type_checks):
    cascade = imagen_jax.load_cascade(base=base)
    seven = cascade("a red apple", seed=7, progress=False).stages[0]
    for seed in (np.int64(7), np.array(7), np.array([7]), jnp.array([7])):
        painted = cascade("a red apple", seed=seed, progress=False).stages[0]
        np.testing.assert_array_equal(painted, seven)


def test_arguments_of_other_methods_are_refused_too(base, no_type_checks):
    cascade = imagen_jax.load_cascade(base=base)
    for does, says in (
        (lambda: cascade.embed(None), "prompts is None; it must be text, or a list of texts"),
        (lambda: cascade.embed("a", batch_size=0), "A number of pictures or prompts is 0"),
        (lambda: cascade.first("1"), "has no first '1'"),
        (lambda: cascade.write("a\0", "a red apple"), "the name of a directory has no NUL"),
        (lambda: cascade.write(base, "a red apple"), "is a file; it must be a directory"),
        (lambda: imagen_jax.load_stage(base, "best"), "weights is 'best'; it must be ema or raw"),
        (lambda: imagen_jax.load_stage(base, adapters=[(base, 1, 2)]), "it must be a path, or one"),
        (lambda: imagen_jax.load_cascade(base, keep="both"), "keep is 'both'; it must be all or"),
        (lambda: imagen_jax.load_cascade(base, mesh="x"), "mesh is 'x'; it must be a mesh of JAX"),
        (lambda: imagen_jax.load_cascade(""), "is neither a training directory nor an exported"),
    ):
        with pytest.raises(UsageError, match=re.escape(says)):
            does()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sr256-adapters", "gone.safetensors"], "--sr256-adapters is gone.safetensors, but no"),
        (["--tile", "-5"], "tile is -5; it is of super-resolution stages, and there is none"),
    ],
)
def test_what_belongs_to_nothing_is_refused(arguments, says, base, tmp_path):
    given = ["a red apple", "--base", base, "--sr256", "none", "--out", tmp_path / "out"]
    refused(call(sample, *given, *arguments), says)
    assert not (tmp_path / "out").exists()
