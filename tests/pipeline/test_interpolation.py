"""Pictures between two seeds begin and end with theirs in every stage, and are near each other."""

import functools

import jax
import numpy as np
import pytest
import tiny

import imagen_jax
from imagen_jax.diffusion.noise import fold_in, normal
from imagen_jax.pipeline.interpolation import SeedsBetween
from imagen_jax.pipeline.sampling import picture_keys
from imagen_jax.weights.stage_file import save_stage_file

ANCESTRAL = {"sampler": "ancestral", "guidance_scale": 2.0}
CONFIGS = {
    "base": tiny.stage(name="tiny_base", sampling=ANCESTRAL | {"num_steps": 3}),
    "sr256": tiny.super_resolution(
        name="tiny_32", low_resolution=16, resolution=32,
        sampling=ANCESTRAL | {"num_steps": 2, "aug_level": 0.4},
    ),
}  # fmt: skip
ASKED = {"progress": False, "batch_size": 1}
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
MASK = np.zeros((32, 32), bool)
MASK[8:, 4:24] = True


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """Two stages that draw noise for their start, every step and the low-resolution picture."""
    directory = tmp_path_factory.mktemp("between")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        params = tiny.random_params(config, seed)
        save_stage_file(directory / f"{name}.safetensors", config, params, "float32")
    stages = {name: directory / f"{name}.safetensors" for name in CONFIGS}
    return functools.partial(imagen_jax.load_cascade(**stages), **ASKED)


def distance(one, other):
    return np.abs(one.astype(int) - other).max()


def test_what_is_drawn_between_two_keys_goes_along_an_arc():
    keys = SeedsBetween(3, 4, (0.0, 0.25, 0.5, 0.75, 1.0)).keys(64)
    alone = [picture_keys(seed, 64, 1) for seed in (3, 4)]
    for purpose in (0, 7, 2**31 - 2):
        drawn = np.asarray(jax.jit(normal, static_argnums=1)(fold_in(keys, purpose), (40, 40, 3)))
        ends = [np.asarray(normal(fold_in(key, purpose), (40, 40, 3)))[0] for key in alone]
        np.testing.assert_allclose(drawn[0], ends[0], atol=1e-6)
        np.testing.assert_allclose(drawn[-1], ends[1], atol=1e-6)
        np.testing.assert_allclose(drawn.std((1, 2, 3)), 1, atol=0.05)
        np.testing.assert_allclose(drawn[2], (ends[0] + ends[1]) / np.sqrt(2), atol=1e-5)
        steps = np.abs(np.diff(drawn, axis=0)).mean((1, 2, 3))
        np.testing.assert_allclose(steps, steps[0], rtol=0.1)
    # Weights of 1 and 0 leave each key's own draw as it is.
    one, other = (np.asarray(normal(keys[np.array([i])], (8, 8, 3))) for i in (0, 4))
    np.testing.assert_array_equal(one, normal(alone[0], (8, 8, 3)))
    np.testing.assert_array_equal(other, normal(alone[1], (8, 8, 3)))


@pytest.mark.parametrize(
    "edit",
    [
        {},
        pytest.param(
            {"image": PICTURE, "mask": MASK, "resamplings": [2, 1]}, marks=pytest.mark.slow
        ),
    ],
)
def test_the_ends_are_the_pictures_of_the_seeds_in_every_stage(cascade, edit):
    way = cascade("a red apple", seed=3, interpolate=5, to_seed=4, **edit)
    alone = [cascade("a red apple", seed=seed, **edit) for seed in (3, 4)]
    for stage in range(2):
        for end, picture in ((0, alone[0]), (-1, alone[1])):
            assert distance(way.stages[stage][end], picture.stages[stage][0]) <= 1
        assert distance(way.stages[stage][0], way.stages[stage][-1]) > 20


@pytest.mark.slow
def test_a_frame_is_the_same_whatever_is_painted_beside_it(cascade):
    asked = {"seed": 3, "to_seed": 4}
    five, three = (cascade("a cat", interpolate=n, **asked).stages for n in (5, 3))
    together = cascade("a cat", interpolate=3, batch_size=3, **asked).stages
    for stage in range(2):
        assert distance(five[stage][::2], three[stage]) <= 1
        assert distance(together[stage], three[stage]) <= 1


@pytest.mark.slow
def test_more_frames_lie_nearer_to_each_other(cascade):
    def largest_step(count):
        way = cascade("a cat", seed=3, interpolate=count, to_seed=4).stages[-1].astype(int)
        return np.abs(np.diff(way, axis=0)).mean((1, 2, 3)).max()

    assert largest_step(17) < 0.5 * largest_step(3)


@pytest.mark.slow
def test_prompts_and_seeds_may_change_at_once(cascade):
    way = cascade(["a red apple", "a cat"], seed=3, interpolate=3, to_seed=4)
    for end, text, seed in ((0, "a red apple", 3), (-1, "a cat", 4)):
        alone = cascade(text, seed=seed).stages
        for stage in range(2):
            assert distance(way.stages[stage][end], alone[stage][0]) <= 1
