"""`--from-manifest` makes every file of a run again to the byte, whatever the run was asked for."""

import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, sample

from imagen_jax.weights.stage_file import save_stage_file

SETTINGS = {"sampler": "ancestral", "num_steps": 2, "guidance_scale": 2.0}
SHOWN = {"pictures": ("labels:classes=3", "sketch:1", "hole:mask"), "picture_dropout": 0.2}
CONFIGS = {
    "base": tiny.stage(name="tiny_base", conditions=SHOWN, sampling=SETTINGS),
    "sr256": tiny.super_resolution(
        name="tiny_32", low_resolution=16, resolution=32, sampling=SETTINGS
    ),
}
RUNS = {
    "a picture's edit": ["a cat", "--image", "photo.png", "--strength", "0.6"],
    "a mask": ["a cat", "--image", "photo.png", "--mask", "mask.png"],
    "beyond a picture": ["a cat", "--image", "photo.png", "--extend", "left,right", "8"],
    "between seeds": ["a cat", "--seed", "1", "--interpolate", "3", "--to-seed", "2"],
    "between prompts": ["a cat", "a dog", "--interpolate", "3"],
    "a file of prompts": ["--prompts-file", "prompts.csv"],
    "other texts": ["a cat", "--negative-prompt", "a leaf", "--positive-prompt", "a dog",
                    "--positive-share", "0.25,0.5"],
    "noise and a preview": ["a cat", "--init-noise", "noise.npy", "--preview"],
    "maps": ["a cat", "--labels", "labels.png", "--sketch", "sketch.png"],
    "tiles": ["--image", "photo.png", "--base", "none", "--tile", "32"],
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("again"), np.random.default_rng(0)
    for seed, (name, config) in enumerate(CONFIGS.items()):
        params = tiny.random_params(config, seed)
        save_stage_file(directory / f"{name}.safetensors", config, params, "float32")
    pixels = {
        "photo": rng.integers(0, 256, (24, 24, 3)),
        "mask": np.kron(np.array([[0, 255], [0, 0]]), np.ones((12, 12), int)),
        "labels": rng.integers(0, 3, (16, 16)),
        "sketch": rng.integers(0, 256, (16, 16)),
    }
    for name, picture in pixels.items():
        Image.fromarray(picture.astype(np.uint8)).save(directory / f"{name}.png")
    np.save(directory / "noise.npy", rng.normal(size=(16, 16, 3)).astype(np.float32))
    (directory / "prompts.csv").write_text(
        'prompt,seed,guidance_scale\na cat,3,\na dog,,"[3, 1]"\n'
    )
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("what", RUNS)
def test_the_files_are_the_same_to_the_byte(what, directory, tmp_path, monkeypatch):
    monkeypatch.chdir(directory)
    stages = [f"--{name}={name}.safetensors" for name in CONFIGS if f"--{name}" not in RUNS[what]]
    first = call(sample, *RUNS[what], *stages, "--sr1024", "none", "--out", tmp_path / "first")
    assert first.code == 0, first.err
    manifest = tmp_path / "first" / "manifest.json"
    again = call(sample, "--from-manifest", manifest, "--out", tmp_path / "again")
    assert again.code == 0 and "not those of" not in again.err, again.err
    files = [
        {x.name: x.read_bytes() for x in (tmp_path / out).iterdir()} for out in ("first", "again")
    ]
    assert files[0] == files[1] and len(files[0]) > 2
