"""What a picture's file says of it: its own settings alone, in any script, the same each time."""

import json

import pytest

import imagen_jax
from imagen_jax.pipeline.inscription import inscription, inscription_of_sheet

RUN = {"seed": 3, "num_images": 2, "batch_size": 4, "split_height": 1, "devices": 8}
STAGES = [{"name": "base", "unet_sha256": "a" * 64, "sampling": {"num_steps": 2}}]


def said(prompt="a red apple", row=0, **settings):
    return json.loads(inscription(RUN | settings, prompt, row, STAGES, 2))


def test_it_says_what_makes_the_picture_and_nothing_of_the_batch():
    assert said(row=1) == {
        "version": imagen_jax.__version__, "prompt": "a red apple", "seed": 3, "picture": 1,
        "stages": STAGES,
    }  # fmt: skip


def test_a_picture_of_several_subjects_says_its_own():
    settings = {"classes": [2, 0], "numbers": {"age": [0.5], "x": [1.0, 2.0]}}
    second = said(row=3, image={"size": [8, 4]}, negative_prompt="dull", **settings)
    assert (second["picture"], second["classes"]) == (1, 0)
    assert second["numbers"] == {"age": 0.5, "x": 2.0}
    assert (second["image"], second["negative_prompt"]) == ({"size": [8, 4]}, "dull")


def test_with_a_seed_for_each_picture_each_is_the_first_of_its_own():
    assert [(said(row=r, seed=(5, 6, 7, 8))["seed"]) for r in range(4)] == [5, 6, 7, 8]
    assert said(row=3, seed=(5, 6, 7, 8))["picture"] == 0


def test_with_a_seed_for_each_subject_its_pictures_are_counted():
    found = [said(row=row, seed=(5, 6)) for row in range(4)]
    assert [(one["seed"], one["picture"]) for one in found] == [(5, 0), (5, 1), (6, 0), (6, 1)]


def test_a_picture_says_its_own_settings_and_no_command():
    each = [{}, {"guidance_scale": 3.0}]
    second = said(row=2, each=each, arguments=["--image", "/home/me/private.png"])
    assert second["each"] == {"guidance_scale": 3.0} and "arguments" not in second


@pytest.mark.parametrize("prompt", ["红 🚀", 'a "b" \\ \0', "\udc80 alone"])
def test_any_prompt_is_ascii_in_the_file(prompt):
    text = inscription(RUN, prompt, 0, STAGES, 2)
    assert text.isascii() and json.loads(text)["prompt"] == prompt


def test_a_sheet_says_what_makes_all_of_them_and_no_command():
    prompts, run = ["a red apple", "红"], RUN | {"classes": [2, 0], "arguments": ["private.png"]}
    text = inscription_of_sheet(run, prompts, STAGES)
    assert text.isascii() and json.loads(text) == {
        "version": imagen_jax.__version__, "prompts": prompts, "seed": 3, "num_images": 2,
        "classes": [2, 0], "stages": STAGES,
    }  # fmt: skip
