"""Pictures from classes, from other pictures and numbers, and from nothing at all."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, refused, sample, verbs

import imagen_jax
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.subjects import Subjects
from imagen_jax.weights.stage_file import save_stage_file

GUIDED = {"num_steps": 2, "guidance_scale": 3.0}
CONFIGS = {
    "text": tiny.stage(sampling=GUIDED),
    "classes": tiny.replace(tiny.told(classes=3), sampling=GUIDED),
    "nothing": tiny.replace(tiny.told(), sampling=GUIDED),
    "all": tiny.replace(
        tiny.told(classes=3, pictures=("sketch:1",), numbers=("age",)), sampling=GUIDED
    ),
}
SKETCH = np.random.default_rng(1).integers(0, 256, (8, 8)).astype(np.uint8)
COLOURED = np.stack([SKETCH] * 3, axis=-1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stages")
    for name, config in CONFIGS.items():
        path = directory / f"{name}.safetensors"
        save_stage_file(path, config, tiny.random_params(config), "float32")
    return {name: directory / f"{name}.safetensors" for name in CONFIGS}


@pytest.mark.slow
def test_classes_are_painted_from_the_shell_as_from_python(files, tmp_path):
    arguments = ("--classes", "2,0", "--num-images", 2, "--base", files["classes"])
    result = call(sample, *arguments, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    names = [f"{i:02}-class-{label}-{n}-16.png" for i, label in ((0, 2), (1, 0)) for n in (0, 1)]
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there == {*names, "contact_sheet.png", "manifest.json"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["classes"] == [2, 0]
    assert manifest["stages"][0]["text_encoder_sha256"] is None
    pictures = imagen_jax.load_cascade(base=files["classes"])(classes=[2, 0], num_images=2)
    assert pictures.prompts == ("class 2", "class 0")
    assert np.any(pictures.stages[0][0] != pictures.stages[0][2])
    painted = [np.asarray(Image.open(tmp_path / "out" / name)) for name in names]
    np.testing.assert_array_equal(pictures.stages[0], painted)


@pytest.mark.slow
def test_an_unconditional_stage_needs_no_prompt_and_guidance_changes_nothing(files, tmp_path):
    result = call(sample, "--num-images", 2, "--base", files["nothing"], "--out", tmp_path / "out")
    assert result.code == 0, result.err
    names = [f"00-unconditional-{n}-16.png" for n in (0, 1)]
    painted = [np.asarray(Image.open(tmp_path / "out" / name)) for name in names]
    assert np.any(painted[0] != painted[1])
    unguided = imagen_jax.load_cascade(base=files["nothing"])(num_images=2, guidance_scale=1.0)
    np.testing.assert_array_equal(unguided.stages[0], painted)


@pytest.fixture(scope="module")
def inputs(files):
    """(class, sketch, age) -> two pictures."""
    cascade = imagen_jax.load_cascade(base=files["all"])

    def paint(label=1, sketch=SKETCH, age=0.5, **options):
        shown = {"sketch": sketch}
        pictures = cascade(
            classes=label, pictures=shown, numbers={"age": age}, num_images=2, **options
        )
        return pictures.stages[0].astype(int)

    return paint


def test_class_picture_and_number_each_change_what_is_painted(inputs):
    plain = inputs()
    for same in (Image.fromarray(SKETCH), COLOURED):
        np.testing.assert_array_equal(inputs(sketch=same), plain)
    for changes in ({"label": 2}, {"sketch": 255 - SKETCH}, {"age": 0.9}):
        assert np.abs(inputs(**changes) - plain).max() > 1
    with_both = inputs(age=[0.5, 0.9])
    assert np.abs(with_both[:2] - plain).max() <= 1 < np.abs(with_both[2:] - plain).max()


def test_an_exported_stage_without_text_has_no_encoder(files):
    stage = imagen_jax.load_stage(files["classes"])
    assert stage.text_encoder is None
    assert {name for name in tiny.random_params(CONFIGS["classes"])} == {"unet"}


@pytest.mark.parametrize(
    ("stage", "subjects", "says"),
    [
        ("classes", {}, "paints classes, 0 to 2; say which"),
        ("classes", {"classes": (3,)}, "has no class 3; its classes are 0 to 2"),
        ("classes", {"classes": (-1,)}, "has no class -1"),
        ("classes", {"classes": (1,), "prompts": ("a",)}, "the prompt 'a', but no stage reads"),
        ("text", {"prompts": ("a",), "classes": (1,)}, "the class 1, but no stage has classes"),
        ("text", {}, "reads text. There is no prompt"),
        ("nothing", {"prompts": ("a",)}, "the prompt 'a', but no stage reads text"),
        ("nothing", {"pictures": {"sketch": SKETCH}}, "No stage is told 'sketch'"),
        ("all", {"classes": (1,), "pictures": {"sketch": SKETCH}}, "needs the number 'age'"),
        ("all", {"classes": (1,), "numbers": {"age": 1}}, "needs the picture 'sketch'"),
        (
            "all",
            {"classes": (1,), "numbers": {"age": 1}, "pictures": {"sketch": SKETCH[:6]}},
            "paints 16x16 pixels; the picture 'sketch' has 6x8, which is of another ratio",
        ),
    ],
)  # fmt: skip
def test_what_a_stage_is_not_told_or_cannot_take_is_refused(files, stage, subjects, says):
    stages = [imagen_jax.load_stage(files[stage])]
    with pytest.raises(UsageError, match=says):
        Subjects(**subjects).read(stages).check(stages, [(16, 16)])


@pytest.mark.parametrize(
    ("subjects", "says"),
    [
        ({"classes": ("a",)}, "A class is 'a'"),
        ({"classes": (True,)}, "A class is True"),
        ({"classes": (1, 2, 3), "prompts": ("a", "b")}, "2 of prompts and 3 subjects"),
        ({"numbers": {"age": float("nan")}}, "'age' is nan"),
        ({"numbers": {"age": "old"}}, "'age' is 'old'"),
        ({"numbers": {"age": []}}, r"'age' is \[\]"),
    ],
)
def test_what_no_stage_could_take_is_refused(subjects, says):
    with pytest.raises(UsageError, match=says):
        Subjects(**subjects)


@pytest.mark.parametrize(
    ("sketch", "says"),
    [
        ([], "The picture 'sketch' is list"),
        (SKETCH / 255, "The picture 'sketch' is ndarray, float64 of shape"),
        (SKETCH[0], r"The picture 'sketch' is ndarray, uint8 of shape \(8,"),
        ("nowhere.png", "The picture 'sketch' nowhere.png cannot be read"),
    ],
)
def test_a_picture_that_cannot_be_read_is_refused(files, sketch, says):
    with pytest.raises(UsageError, match=says):
        Subjects(pictures={"sketch": sketch}).read([imagen_jax.load_stage(files["all"])])


@pytest.mark.slow
def test_the_shell_says_the_same(files, tmp_path):
    out = ("--sr256", "none", "--out", tmp_path / "out")
    paint = lambda stage, *words: call(sample, *words, "--base", files[stage], *out)  # noqa: E731
    refused(paint("classes"), "(tiny) paints classes, 0 to 2; say which.")
    refused(paint("classes", "--class-labels", "7"), "has no class 7; its classes are 0 to 2.")
    refused(paint("classes", "--classes", "x"), "--classes", "must be a whole number from 0")
    refused(paint("text", "a", "--classes", "1"), "no stage has classes")
    refused(paint("text"), "reads text. There is no prompt")
    refused(paint("nothing", "a"), "no stage reads text; leave prompts out")
    refused(paint("all", "--classes", "1"), "a call from Python takes numbers={'age': ...}")
    refused(call(verbs, "embed", "stage", tmp_path / "e", "--stage", files["nothing"]), "no text")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_null_class_is_what_guidance_leads_away_from(files):
    """At the weight 0 the unconditional half alone is left, whatever the class."""
    cascade = imagen_jax.load_cascade(base=files["classes"])
    one, other = (cascade(classes=label, guidance_scale=0.0).stages[0] for label in (0, 2))
    assert np.abs(one.astype(int) - other).max() <= 1
