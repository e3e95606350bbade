"""Tuning chooses by what is measured, within its budget, and writes the header."""

import numpy as np
import pytest
import tiny
from scripts import call, paint_nothing, refused, verbs

from imagen_jax.errors import UsageError
from imagen_jax.evaluation import sweeps
from imagen_jax.evaluation.cases import Case
from imagen_jax.evaluation.tuning import evaluations_a_step, tune, within
from imagen_jax.stored.stages import load_weights
from imagen_jax.weights.stage_file import save_stage_file

STAGE = tiny.stage(sampling={"guidance_scale": 3.0, "sampler": "ddim"})


def measured(wanted):
    """A measure that likes settings with the wanted values, and all that it was asked."""
    asked = []

    def measure(settings):
        asked.append(settings)
        return sum(getattr(settings, name) == value for name, value in wanted.items()) / 10, 0.5

    return measure, asked


def test_every_setting_is_chosen_by_what_is_measured():
    wanted = {"sampler": "heun", "guidance_interval": (0.2, 1.0), "thresholding": "static"}
    measure, asked = measured(wanted)
    tried = tune(STAGE, 12, measure)
    best = tried[-1].settings
    assert {name: getattr(best, name) for name in wanted} == wanted
    assert tried[0].settings == tiny.replace(STAGE.sampling, num_steps=6)
    assert len(asked) == len(set(asked)) == len(tried)
    assert {x.num_steps * evaluations_a_step(STAGE, x) for x in asked} == {12}
    assert best.num_steps == 3  # Heun's step takes two guided evaluations.


def test_of_equal_fits_the_nearer_one_is_chosen():
    distances = {"ancestral": 0.3, "ddim": 0.4, "dpm++": 0.2, "heun": 0.2}
    tried = tune(STAGE, 8, lambda settings: (0.9, distances[settings.sampler]))
    assert tried[-1].settings.sampler == "dpm++"
    assert tried[-1].settings.thresholding == STAGE.sampling.thresholding


def test_what_the_budget_does_not_reach_is_left_out():
    _, asked = measured({})
    tune(STAGE, 3, lambda settings: asked.append(settings) or (0.0, 0.0))
    assert {settings.sampler for settings in asked} == {"ddim", "ancestral", "dpm++"}
    assert {settings.num_steps for settings in asked} == {1}
    with pytest.raises(UsageError, match="--budget is 1; one step of ddim takes 2 evaluations"):
        within(STAGE, STAGE.sampling, 1)


def test_without_guidance_a_step_is_one_evaluation_and_no_interval_is_tried():
    unguided = tiny.stage(sampling={"guidance_scale": 1.0})
    measure, asked = measured({})
    tune(unguided, 4, measure)
    assert {settings.guidance_interval for settings in asked} == {(0.0, 1.0)}
    assert {x.num_steps for x in asked if x.sampler != "heun"} == {4}


def test_a_step_counts_every_part_that_goes_through_the_network():
    sees = {"pictures": ("sketch:1",), "picture_dropout": 0.2}
    stage = tiny.stage(conditions=sees, sampling={"picture_guidance_scale": 2.0})
    assert evaluations_a_step(stage, stage.sampling) == 3
    assert evaluations_a_step(stage, tiny.replace(stage.sampling, sampler="heun")) == 6
    blind = tiny.stage(sampling={"picture_guidance_scale": 2.0})
    assert evaluations_a_step(blind, blind.sampling) == 2
    renoised = {"sampler": "ddim", "renoising": "unguided", "guidance_scale": 1.0}
    assert evaluations_a_step(blind, tiny.replace(blind.sampling, **renoised)) == 2


def test_a_student_has_its_own_steps():
    student = tiny.stage(
        diffusion={"prediction": "v"}, distillation={"steps": 4}, sampling={"num_steps": 4}
    )
    with pytest.raises(UsageError, match="'tiny' was distilled to 4 steps; there is nothing to"):
        tune(student, 4, measured({})[0])


@pytest.fixture
def painted(monkeypatch):
    """Every picture is black, and of each kind there are two."""
    paint_nothing(monkeypatch)
    cases = [
        Case(kind, f"a {name}, noto style", code, style="noto")
        for kind in ("seen pairs", "held-out pairs")
        for name, code in (("banana", "1f34c"), ("red apple", "1f34e"))
    ]
    monkeypatch.setattr(sweeps, "all_cases", lambda: cases)


@pytest.mark.slow
def test_the_choice_is_in_the_header_of_what_is_written(painted, tmp_path):
    config = tiny.stage(resolution=64, sampling={"guidance_scale": 3.0, "sampler": "ddim"})
    stage, out = tmp_path / "stage.safetensors", tmp_path / "tuned.safetensors"
    save_stage_file(stage, config, tiny.random_params(config), "float32")
    asked = ("tune", stage, out, "--budget", 8, "--times", 2, "--dtype", "float32")
    said = call(verbs, *asked)
    assert said.code == 0 and "held-out pairs, as chosen: " in said.out
    before, after = load_weights(stage), load_weights(out)
    assert after.config.sampling == tiny.replace(before.config.sampling, num_steps=4)
    kernels = (x.params["unet"]["conv_in"]["kernel"] for x in (before, after))
    np.testing.assert_array_equal(*kernels)
    kept = sorted((tmp_path / "tuned.tuning").iterdir())
    assert call(verbs, *asked).out == said.out and said.out.count("timesteps") == 2
    assert sorted((tmp_path / "tuned.tuning").iterdir()) == kept


def likes_times(wanted):
    """A measure that likes settings the more the nearer their times are, and what it was asked."""
    asked = []

    def measure(settings):
        asked.append(settings)
        if settings.num_steps != len(wanted):
            return -1e6, 0.5
        steps = settings.timesteps or [999 - round(1000 * i / len(wanted)) for i in range(4)]
        return -float(np.abs(np.subtract(steps, wanted)).sum()), 0.5

    return measure, asked


def test_times_go_where_what_is_measured_is_best():
    wanted = (999, 900, 420, 30)
    one_by_one = tiny.stage(sampling={"guidance_scale": 1.0, "sampler": "ddim"})
    measure, asked = likes_times(wanted)
    best = tune(one_by_one, 4, measure, 300)[-1].settings
    assert np.abs(np.subtract(best.timesteps, wanted)).max() <= 2
    assert best.timesteps[0] == 999 and best.num_steps == 4
    again, asked_again = likes_times(wanted)
    tune(one_by_one, 4, again, 300)
    assert asked_again == asked and len(set(asked)) == len(asked)


def test_no_more_times_are_tried_than_were_allowed():
    one_by_one = tiny.stage(sampling={"guidance_scale": 1.0, "sampler": "ddim"})
    fits = []
    for trials in (0, 3, 10, 40):
        measure, asked = likes_times((999, 990, 980, 970))
        fits.append(tune(one_by_one, 4, measure, trials)[-1].figures[0])
        assert sum(bool(x.timesteps) for x in asked) == trials
    assert fits == sorted(fits) and fits[0] < fits[-1]


def test_the_best_spacing_is_where_times_begin_and_where_they_stay():
    on_chain = tiny.stage(
        diffusion={"schedule": "cosine_chain"}, sampling={"guidance_scale": 1.0, "sampler": "ddim"}
    )
    asked = []

    def measure(settings):
        asked.append(settings)
        return float(settings.spacing == "trailing" and not settings.timesteps), 0.5

    best = tune(on_chain, 2, measure, 2)[-1].settings
    assert (best.spacing, best.timesteps) == ("trailing", ())
    assert [x.timesteps for x in asked if x.timesteps] == [(999, 749), (999, 249)]


def test_a_stages_own_times_are_kept_where_they_fit():
    sampling = {"guidance_scale": 1.0, "num_steps": 3, "timesteps": (999, 800, 100)}
    own = tiny.stage(sampling=sampling)
    measure, asked = measured({"timesteps": (999, 800, 100)})
    tried = tune(own, 3, measure)
    assert tried[0].settings.timesteps == tried[-1].settings.timesteps == (999, 800, 100)
    assert any(x.timesteps == () for x in asked)
    assert within(own, own.sampling, 4).timesteps == ()


def test_what_cannot_be_tuned_is_refused(painted, tmp_path):
    config, stage = tiny.super_resolution(), tmp_path / "stage.safetensors"
    save_stage_file(stage, config, tiny.random_params(config), "float32")
    out = tmp_path / "x.safetensors"
    refused(call(verbs, "tune", stage, out, "--budget", 8), "a stage is tuned that paints alone")
    refused(call(verbs, "tune", stage, out, "--budget", 0), "--budget is 0; it must be positive")
    refused(call(verbs, "tune", stage, out, "--budget", 8, "--times", -1), "times is -1; it must")
    refused(call(verbs, "tune", stage, tmp_path / "x", "--budget", 8), ".safetensors")
    assert not out.exists()
