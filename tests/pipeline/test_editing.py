"""Edits through a cascade: what stays to the pixel, what strength means, and what is refused."""

import json

import jax
import numpy as np
import pytest
import tiny

import imagen_jax
from imagen_jax.config import MeshConfig
from imagen_jax.diffusion.edits import Course
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.editing import EditSettings, StageEdit, edit_of
from imagen_jax.pipeline.given import fit, fit_mask, read_picture
from imagen_jax.stored.stages import open_stage
from imagen_jax.weights.stage_file import save_stage_file

PROMPT = "a red apple"
CONFIGS = {
    "base": tiny.stage(name="tiny_base", sampling={"num_steps": 4, "guidance_scale": 1.0}),
    "sr256": tiny.super_resolution(
        name="tiny_32", low_resolution=16, resolution=32,
        sampling={"num_steps": 2, "guidance_scale": 1.0},
    ),
}  # fmt: skip
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
MASK = np.zeros((32, 32), bool)
MASK[5:20, 9:30] = True
ASKED = {"num_images": 2, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stages")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        params = tiny.random_params(config, seed)
        save_stage_file(directory / f"{name}.safetensors", config, params, "float32")
    return {name: directory / f"{name}.safetensors" for name in CONFIGS}


@pytest.fixture(scope="module")
def cascade(files):
    return imagen_jax.load_cascade(**files)


@pytest.fixture(scope="module")
def base(files):
    """The base alone, whose pictures are those of the cascade's."""
    return imagen_jax.load_cascade(base=files["base"])


@pytest.fixture(scope="module")
def unedited(cascade):
    return cascade(PROMPT, **ASKED)


@pytest.fixture(scope="module")
def inpainted(cascade):
    return cascade(PROMPT, image=PICTURE, mask=MASK, **ASKED)


def test_what_is_black_in_the_mask_stays_to_the_pixel(inpainted):
    for stage, side in zip(inpainted.stages, (16, 32), strict=True):
        picture, repaint = fit(read_picture(PICTURE), (side, side)), fit_mask(MASK, (side, side))
        assert repaint.any() and not repaint.all()
        for painted in stage:
            np.testing.assert_array_equal(painted[~repaint], picture[~repaint])
            assert np.abs(painted[repaint].astype(int) - picture[repaint]).mean() > 5
    np.testing.assert_array_equal(inpainted.stages[-1][0][~MASK], PICTURE[~MASK])
    assert np.any(inpainted.stages[-1][0] != inpainted.stages[-1][1])


def test_diffusers_rule_may_be_asked_for_and_hears_of_every_step(base, inpainted):
    heard = []
    told = {"callback": lambda p: heard.append((p.step, p.num_steps)), "inpainting": "clean"}
    clean = base(PROMPT, image=PICTURE, mask=MASK, strength=0.7, **told, **ASKED)
    small, repaint = fit(read_picture(PICTURE), (16, 16)), fit_mask(MASK, (16, 16))
    np.testing.assert_array_equal(clean.stages[0][1][~repaint], small[~repaint])
    assert np.any(clean.stages[0] != inpainted.stages[0])
    assert sorted(heard) == [(0, 2), (1, 2)]


def test_strength_one_forgets_the_picture_and_so_does_a_full_mask(cascade, unedited):
    for edit in ({"strength": 1.0}, {"mask": np.ones((32, 32), bool)}):
        again = cascade(PROMPT, image=PICTURE, **edit, **ASKED)
        for ours, theirs in zip(again.stages, unedited.stages, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mask", [None, MASK])
def test_strength_nought_gives_the_picture_back(cascade, mask, monkeypatch):
    """Of a batch too whose memory is looked at before its first step: there is none."""
    monkeypatch.setattr(imagen_jax.pipeline.stage, "_MANY_PIXELS", 0)
    same = cascade(PROMPT, image=PICTURE, mask=mask, strength=0, **ASKED)
    for stage, side in zip(same.stages, (16, 32), strict=True):
        wanted = fit(read_picture(PICTURE), (side, side))
        np.testing.assert_array_equal(stage, np.broadcast_to(wanted, stage.shape))


def test_strength_may_differ_by_stage(cascade, unedited):
    edited = cascade(PROMPT, image=PICTURE, strength=[1.0, 0.5], **ASKED)
    np.testing.assert_array_equal(edited.stages[0], unedited.stages[0])
    assert np.any(edited.stages[1] != unedited.stages[1])
    assert [step.num_steps for step in edited.steps] == [4, 1]


@pytest.mark.slow
def test_a_picture_does_not_depend_on_its_batch_or_the_devices(files, inpainted):
    """Two pictures one after another, each split over four devices."""
    stages = [open_stage(path) for path in files.values()]
    mesh = make_mesh(MeshConfig(spatial=4), jax.devices()[:4])
    asked = {**ASKED, "batch_size": 1}
    again = Cascade(stages, mesh=mesh)(PROMPT, image=PICTURE, mask=MASK, **asked)
    for ours, theirs in zip(again.stages, inpainted.stages, strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_the_manifest_holds_what_was_edited_and_how(inpainted, unedited, tmp_path):
    inpainted.save(tmp_path / "edited")
    unedited.save(tmp_path / "plain")
    edited, plain = (
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("edited", "plain")
    )
    said = edit_of(PICTURE, MASK).said
    assert {name: edited[name] for name in ("image", "mask")} == said
    assert said["image"]["size"] == [32, 32] and len(said["mask"]["pixels_sha256"]) == 64
    assert [stage["edit"] for stage in edited["stages"]] == [
        {"strength": 1.0, "inpainting": "repaint", "resamplings": 5},
        {"strength": 1.0, "inpainting": "repaint", "resamplings": 1},
    ]
    assert not {"image", "mask"} & set(plain) and "edit" not in plain["stages"][0]


def test_the_picture_decides_the_size(cascade):
    """Of a whole number of the networks' pixels it is that; of another one the nearest ratio."""
    wide = np.zeros((16, 48, 3), np.uint8)
    exact = cascade(PROMPT, image=wide, strength=0, **ASKED)
    assert exact.stages[-1].shape == (2, 16, 48, 3)
    near = cascade(PROMPT, image=np.zeros((33, 99, 3), np.uint8), strength=0, **ASKED)
    assert near.stages[0].shape == (2, 10, 28, 3)
    asked = cascade(PROMPT, image=wide, strength=0, size=(16, 16), **ASKED)
    assert asked.stages[-1].shape == (2, 32, 32, 3)


# A super-resolution stage alone.


def test_a_stage_alone_enlarges_a_picture_as_it_would_the_bases(files, cascade, unedited):
    """The key of a picture is that of its stage, so that the very same picture comes out."""
    alone = imagen_jax.load_cascade(sr256=files["sr256"])
    base = unedited.stages[0][0]
    enlarged = alone(PROMPT, image=base, **ASKED)
    assert [stage.shape for stage in enlarged.stages] == [(2, 32, 32, 3)]
    assert np.abs(enlarged.stages[0][0].astype(int) - unedited.stages[1][0]).max() <= 1
    assert np.any(enlarged.stages[0][1] != unedited.stages[1][1]), "It enlarges picture 0 too."
    low_res = enlarged.conditions(0, np.arange(2)).pictures["low_res"]
    np.testing.assert_array_equal(low_res, np.stack([base, base]))


@pytest.mark.slow
def test_a_stage_alone_takes_any_size_and_needs_a_picture(files):
    alone = imagen_jax.load_cascade(sr256=files["sr256"])
    wide = alone(PROMPT, image=PICTURE[:12, :24], **ASKED)
    assert wide.stages[0].shape == (2, 24, 48, 3)
    with pytest.raises(UsageError, match="comes first, and there is no image"):
        alone(PROMPT, **ASKED)
    with pytest.raises(UsageError, match="strength is 0.5, but the first stage, .*tiny_32"):
        alone(PROMPT, image=PICTURE, strength=0.5, **ASKED)
    with pytest.raises(UsageError, match="There is a part to repaint, but the first stage"):
        alone(PROMPT, image=PICTURE, mask=MASK, **ASKED)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mask": MASK}, "There is a mask, but no image"),
        ({"strength": 0.5}, "strength is 0.5, but there is no image"),
        ({"image": PICTURE, "inpainting": "clean"}, "inpainting is 'clean', but there is no mask"),
        ({"image": PICTURE, "mask": MASK[:9]}, "9x32 pixels and the picture 32x32"),
        ({"image": PICTURE, "strength": 1.5}, "strength is 1.5; it must lie between 0 and 1"),
        ({"image": PICTURE, "strength": "much"}, "strength is 'much'; it must be a number"),
        ({"image": PICTURE, "strength": float("nan")}, "strength is nan"),
        ({"image": PICTURE, "strength": [0.1, 0.2, 0.3]}, "strength has 3 values"),
        ({"image": PICTURE, "mask": MASK, "resamplings": 0}, "resamplings is 0"),
        ({"image": PICTURE, "mask": MASK, "resamplings": 10**9}, "resamplings is 1000000000; it"),
        ({"image": PICTURE, "mask": MASK, "inpainting": "magic"}, "inpainting is 'magic'"),
        ({"image": PICTURE, "mask": MASK, "inpainting": "clean", "resamplings": 2}, "goes back"),
        ({"image": np.zeros((2, 900, 3), np.uint8)}, "one side would be less than"),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_what_cannot_be_edited_is_refused(given, says, cascade):
    with pytest.raises(UsageError, match=says):
        cascade(PROMPT, **given, **ASKED)


# The seam.


def stage_edit(picture, repaint):
    return StageEdit(picture, repaint, Course(0, ()), EditSettings())


def test_colours_meet_at_the_border_inside_of_what_is_repainted():
    """Painted too bright by 64, the picture has no step at the border, and is painted inside."""
    picture = np.full((128, 128, 3), 100, np.uint8)
    repaint = np.zeros((128, 128), bool)
    repaint[32:96, 32:96] = True
    painted = np.full((1, 128, 128, 3), 164, np.uint8)
    [result] = stage_edit(picture, repaint).put_back(painted)
    np.testing.assert_array_equal(result[~repaint], picture[~repaint])
    steps = np.abs(np.diff(result[64, :, 0].astype(int)))
    assert steps.max() <= 64 // 16 + 1
    np.testing.assert_array_equal(result[50:78, 50:78], painted[0, 50:78, 50:78])


def test_the_border_is_no_steeper_than_what_is_beside_it():
    """A texture, painted anew and too dark: the mean step across the border is the texture's."""
    rng = np.random.default_rng(0)
    textures = rng.normal(0, 6, (2, 128, 128, 3))
    picture = (160 + textures[0]).round().astype(np.uint8)
    painted = (130 + 0.5 * textures[0] + 0.8 * textures[1]).round().astype(np.uint8)[None]
    repaint = np.arange(128)[None].repeat(128, 0) >= 64
    [result] = stage_edit(picture, repaint).put_back(painted)
    steps = np.abs(np.diff(result.astype(int), axis=1)).mean((0, 2))
    assert steps[63] <= 1.1 * steps[:62].mean()
    jump = np.abs(result[:, 64:68].mean() - result[:, 60:64].mean())
    assert jump < 5, "of 30 without"
    np.testing.assert_array_equal(result[:, :64], picture[:, :64])


def test_what_is_painted_right_is_left_as_it_is():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    painted = picture[None].copy()
    repaint = np.arange(16)[:, None] + np.zeros((16, 16), int) < 8
    painted[0][repaint] = 255 - painted[0][repaint]
    np.testing.assert_array_equal(stage_edit(picture, repaint).put_back(painted), painted)
    np.testing.assert_array_equal(stage_edit(picture, None).put_back(painted), painted)


# Where a super-resolution stage begins.


def begun(low_res, repaint=None):
    coarse = fit(read_picture(PICTURE), (8, 8))
    edit = StageEdit(PICTURE, repaint, Course(1, ()), EditSettings(), coarse)
    return edit.source(low_res[None]).picture[0], coarse


def test_a_stage_begins_with_the_colours_of_what_it_enlarges():
    """The low-resolution picture, darker, darkens all; its own colours change nothing."""
    coarse = fit(read_picture(PICTURE), (8, 8))
    np.testing.assert_array_equal(begun(coarse)[0], PICTURE)
    darker, _ = begun((coarse - np.minimum(coarse, 40)).astype(np.uint8))
    changed = PICTURE.astype(int) - darker
    assert 35 <= changed[PICTURE > 90].mean() <= 45
    known, _ = begun(coarse // 2, MASK)
    np.testing.assert_array_equal(known[~MASK], PICTURE[~MASK])
    assert np.any(known[MASK] != PICTURE[MASK])


def test_a_changed_base_changes_the_picture_below_it(cascade):
    """Though the last stage takes no step, its picture is of the colours that the base gave it."""
    edited = cascade(PROMPT, image=PICTURE, strength=[1.0, 0.0], **ASKED)
    small = fit(read_picture(edited.stages[-1][0]), (16, 16)).astype(int)
    to_base = np.abs(small - edited.stages[0][0]).mean()
    to_picture = np.abs(small - fit(read_picture(PICTURE), (16, 16))).mean()
    assert to_base < 0.7 * to_picture
