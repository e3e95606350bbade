"""A network that takes the weight of guidance paints by one evaluation a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scripts import call, sample

from imagen_jax.conditions import Conditions
from imagen_jax.errors import UsageError
from imagen_jax.networks import build_networks, told_guidance
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.sampling import Run, StepwiseSampler, picture_keys
from imagen_jax.stored.stages import open_stage
from imagen_jax.weights.stage_file import save_stage_file

RANGE = {"conditions": {"guidance": (1.0, 5.0)}, "sampling": {"guidance_scale": 2.0}}
CONFIG = tiny.stage(**RANGE)
PARAMS = tiny.random_params(CONFIG)
SIZE = (CONFIG.resolution, CONFIG.resolution)


def paint(config, unet, **settings):
    """Two pictures, and how many pictures each evaluation of the network was of."""
    seen = []
    networks = build_networks(config)

    class Counting(type(networks)):
        def predict(self, params, z, log_snr, encoded):
            seen.append(len(z))
            return super().predict(params, z, log_snr, encoded)

    networks = Counting(**vars(networks))
    plan, numbers = plan_sampling(config, tiny.replace(config.sampling, **settings), SIZE)
    arrays = tiny.inputs(config)
    told = Conditions(text=jnp.asarray(arrays["text"]), mask=jnp.asarray(arrays["mask"]))
    sampler = StepwiseSampler(Run(config, plan, networks, SIZE))
    pictures, _ = sampler({"unet": unet}, numbers, picture_keys(0, 16, 2), told)
    return np.asarray(pictures), set(seen)


def test_it_begins_as_the_stage_without_it():
    """Its projection is zero then; the teacher is guided by nothing."""
    plain = tiny.stage(sampling={"guidance_scale": 1.0})
    unet = {name: x for name, x in PARAMS["unet"].items() if name != "added"}
    added = jax.tree.map(jnp.copy, PARAMS["unet"]["added"])
    last = added["numbers"]["guidance_scale"]["dense_2"]
    last |= jax.tree.map(jnp.zeros_like, last)
    begun, evaluated = paint(CONFIG, unet | {"added": added})
    np.testing.assert_array_equal(begun, paint(plain, unet)[0])
    assert evaluated == {2}


def test_the_weight_is_read_and_takes_one_evaluation():
    two, evaluated = paint(CONFIG, PARAMS["unet"])
    three, _ = paint(CONFIG, PARAMS["unet"], guidance_scale=3.0)
    assert np.any(two != three) and evaluated == {2}
    _, guided = paint(tiny.stage(), {x: PARAMS["unet"][x] for x in PARAMS["unet"] if x != "added"})
    assert guided == {4}


def test_each_step_is_told_its_own_weight():
    """Weight 1, whose place is 0, where an interval or an oscillation leaves a step unguided."""
    told = []

    class Telling(type(build_networks(CONFIG))):
        def predict(self, params, z, log_snr, encoded):
            jax.debug.callback(told.append, encoded.others.numbers["guidance_scale"])
            return super().predict(params, z, log_snr, encoded)

    networks = Telling(**vars(build_networks(CONFIG)))
    arrays = tiny.inputs(CONFIG)
    conditions = Conditions(text=jnp.asarray(arrays["text"]), mask=jnp.asarray(arrays["mask"]))
    of_settings = {
        (0, 0.5, 0.5, 0): {"guidance_interval": (0.4, 0.8)},
        (0.5, 0.5, 0, 0.5): {"guidance_oscillates_from": 2},
    }
    for places, own in of_settings.items():
        settings = tiny.replace(CONFIG.sampling, num_steps=4, guidance_scale=3.0, **own)
        plan, numbers = plan_sampling(CONFIG, settings, SIZE)
        paint = StepwiseSampler(Run(CONFIG, plan, networks, SIZE))
        paint(PARAMS, numbers, picture_keys(0, 16, 2), conditions)
        jax.effects_barrier()
        assert [x.tolist() for x in told] == [[place] * 2 for place in places]
        told.clear()


def test_a_picture_that_no_step_guides_is_that_of_weight_one():
    nowhere, _ = paint(CONFIG, PARAMS["unet"], guidance_interval=(0.001, 0.002))
    one, _ = paint(CONFIG, PARAMS["unet"], guidance_scale=1.0)
    two, _ = paint(CONFIG, PARAMS["unet"])
    np.testing.assert_array_equal(nowhere, one)
    assert np.any(nowhere != two)


@pytest.mark.parametrize("learned", [(2.0, 5.0), (0.2, 0.8)])
def test_steps_without_guidance_need_weight_one_in_the_range(learned):
    scale = {"guidance_scale": learned[0]}
    config = tiny.stage(conditions={"guidance": learned}, sampling=scale)
    for own in ({"guidance_interval": (0.2, 0.8)}, {"guidance_oscillates_from": 2}):
        with pytest.raises(UsageError, match="a step without guidance has weight 1; 'tiny' takes"):
            plan_sampling(config, tiny.replace(config.sampling, **own), SIZE)


def test_a_network_is_told_the_weights_place_in_the_range():
    told = told_guidance(CONFIG, Conditions(), jnp.array([1.0, 2.0, 5.0]))
    assert told.numbers["guidance_scale"].tolist() == [0.0, 0.25, 1.0]
    assert told_guidance(tiny.stage(), Conditions(), jnp.ones(3)) == Conditions()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"guidance_scale": 5.5}, "guidance_scale is 5.5; 'tiny' takes it as an input and learned"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5; 'tiny' takes it as an input and learned"),
        ({"guidance_parallel": 0.0}, "takes a guidance weight and nothing else"),
        ({"guidance_max_norm": 9.0}, "takes a guidance weight and nothing else"),
        ({"guidance_momentum": -0.5}, "takes a guidance weight and nothing else"),
        (
            {"renoising": "unguided", "sampler": "ddim", "guidance_scale": 1.0},
            "takes a guidance weight and nothing else",
        ),
    ],
)
def test_guidance_that_was_not_learned_is_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        plan_sampling(CONFIG, tiny.replace(CONFIG.sampling, **settings), SIZE)
    with pytest.raises(UsageError, match=says):
        tiny.stage(**RANGE | {"sampling": RANGE["sampling"] | settings})


def test_a_user_is_told_in_one_sentence(tmp_path):
    path = tmp_path / "stage.safetensors"
    save_stage_file(path, CONFIG, PARAMS, "float32")
    stages = ("--base", path, "--sr256", "none", "--out", tmp_path / "out")
    refused = call(sample, "a cat", *stages, "--guidance-scale", 9)
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "'tiny' takes it as an input and learned 1 to 5." in refused.err
    with pytest.raises(UsageError, match="it knows no text to lead away from but the null text"):
        Cascade([open_stage(path)])("a cat", negative_prompt="a dog", progress=False)
