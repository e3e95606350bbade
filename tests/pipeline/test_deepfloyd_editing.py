"""Edits by DeepFloyd IF's stages against diffusers' pipelines, step by step, and their defaults."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from PIL import Image

from imagen_jax.conditions import Conditions
from imagen_jax.config import MeshConfig
from imagen_jax.diffusion import process, samplers
from imagen_jax.networks import build_networks
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.editing import Edit, EditSettings
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.sampling import Run
from imagen_jax.stored.stages import open_stage
from imagen_jax.weights.deepfloyd_stage import convert_deepfloyd_if

GOLDEN = Path(__file__).parents[1] / "golden" / "deepfloyd_if"
STEPS, STRENGTH = 10, {"img2img": 0.7, "inpainting": 0.9}
AUG_LEVEL = {"img2img": 0.25, "inpainting": 0.0}
GUIDANCE = {
    ("stage_1", "img2img"): 10.0, ("stage_1", "inpainting"): 7.0,
    ("stage_2", "img2img"): 4.0, ("stage_2", "inpainting"): 4.0,
}  # fmt: skip
"""Of tests/golden/make_deepfloyd_edits_golden.py and of diffusers' pipelines."""


@pytest.fixture(scope="module")
def golden():
    """All arrays, those of pictures with the channels last."""
    stored = safetensors.numpy.load_file(GOLDEN / "edits.safetensors")
    return {
        name: x if name.endswith("_embeds") else np.moveaxis(x, -3, -1)
        for name, x in stored.items()
    }


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("deepfloyd_if")
    for name in ("stage_1", "stage_2"):
        out = directory / f"{name}.safetensors"
        convert_deepfloyd_if(GOLDEN / name, out, "float32", GOLDEN / "stage_1")
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("edit", ["img2img", "inpainting"])
@pytest.mark.parametrize("name", ["stage_1", "stage_2"])
def test_edits_equal_the_pipelines_of_diffusers(name, edit, golden, converted, monkeypatch):
    """With the noise that the pipeline drew; what is known is put over ours, as is diffusers'."""
    ours = {k.rpartition(".")[2]: x for k, x in golden.items() if k.startswith(f"{name}.{edit}.")}
    stage = open_stage(converted / f"{name}.safetensors")
    side, picture = stage.config.resolution, golden[f"{name}.picture"]
    mask = golden[f"{name}.mask"][:, :, 0] > 0 if edit == "inpainting" else None
    changes = {"aug_level": AUG_LEVEL[edit], "guidance_scale": GUIDANCE[name, edit]}
    settings = dataclasses.replace(stage.config.sampling, num_steps=STEPS, timesteps=(), **changes)
    asked = EditSettings(strength=STRENGTH[edit])
    of_stage = Edit(Image.fromarray(picture[0]), mask).of_stage(
        stage.config, STEPS, asked, (side, side)
    )
    plan, numbers = plan_sampling(stage.config, settings, (side, side), of_stage.course)
    first = of_stage.course.first
    drawn = jnp.asarray(ours["steps"])
    monkeypatch.setattr(samplers, "normal", lambda keys, shape: jnp.asarray(ours["initial"]))
    monkeypatch.setattr(samplers, "noise", lambda keys, step, z: drawn[step.index - first])
    monkeypatch.setattr(process, "normal", lambda keys, shape: jnp.asarray(ours["augmentation"]))
    low_res = {"low_res": golden["stage_1.picture"]} if name == "stage_2" else {}
    text, null = golden["prompt_embeds"], golden["negative_prompt_embeds"][:1]
    conditions = Conditions(text=text, mask=np.ones(text.shape[:2], bool), pictures=low_res)
    source = dataclasses.replace(of_stage.source(low_res.get("low_res")), picture=picture)
    run = Run(stage.config, plan, build_networks(stage.config), (side, side))
    keys, mesh = jax.random.split(jax.random.key(0), 2), make_mesh(MeshConfig(), jax.devices()[:1])
    inputs = (keys, conditions, (null, np.ones(null.shape[:2], bool)), None, source)
    params = {"unet": stage.unet.load(mesh)}
    painted = tiny.painted_images(run, params, numbers, *jax.tree.map(jnp.asarray, inputs))
    if mask is not None:
        painted = jnp.where(mask[:, :, None], painted, picture / 127.5 - 1)
    assert first == STEPS - int(STEPS * STRENGTH[edit])
    assert np.abs(ours["pictures"] - (picture / 127.5 - 1)).mean() > 0.1
    np.testing.assert_allclose(painted, ours["pictures"], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_stages_edit_as_diffusers_does_by_default(converted):
    """Known pixels are never noised, nothing is gone twice, and each begins with the picture."""
    picture, mask = Image.new("RGB", (32, 32)), np.eye(32, dtype=bool)
    for name, size in (("stage_1", (16, 16)), ("stage_2", (32, 32))):
        config = open_stage(converted / f"{name}.safetensors").config
        edit = Edit(picture, mask).of_stage(config, STEPS, EditSettings(strength=0.5), size)
        assert (edit.settings.inpainting, edit.settings.resamplings) == ("clean", 1)
        assert edit.coarse is None and not edit.course.goes_back
