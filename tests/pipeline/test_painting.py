"""The whole cascade, painted through sample.py: files, manifest, and what a picture depends on."""

import contextlib
import json
import weakref

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, paint_nothing, refused, sample, tree, verbs

from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import claim_directory
from imagen_jax.config import MeshConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline import painting
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.stored.stages import StoredNetwork, open_stage
from imagen_jax.weights.stage_file import save_stage_file
from imagen_jax.weights.tensors import digest

SETTINGS = {"sampling": {"num_steps": 2, "guidance_scale": 3.0}}
CONFIGS = {
    "base": tiny.stage(name="tiny_base", **SETTINGS),
    "sr256": tiny.super_resolution(name="tiny_32", low_resolution=16, resolution=32, **SETTINGS),
    "sr1024": tiny.super_resolution(name="tiny_64", low_resolution=32, resolution=64, **SETTINGS),
}
PROMPTS = ("a red apple", "a cat face", "rocket")


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Three stages with random weights, exported."""
    directory = tmp_path_factory.mktemp("stages")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        params = tiny.random_params(config, seed)
        save_stage_file(directory / f"{name}.safetensors", config, params, "float32")
    return directory


@pytest.fixture(scope="module")
def steps(stages):
    opened = [open_stage(stages / f"{name}.safetensors") for name in CONFIGS]
    return [painting.SampledStage(stage, stage.config.sampling) for stage in opened]


def flags(stages):
    return [part for name in CONFIGS for part in (f"--{name}", stages / f"{name}.safetensors")]


@pytest.fixture(scope="module")
def painted(stages, tmp_path_factory):
    """What sample.py leaves of two prompts with two pictures each, stages 2 and 3 in one step."""
    out = tmp_path_factory.mktemp("painted") / "new" / "out"
    arguments = [*PROMPTS[:2], *flags(stages), "--num-images", 2, "--seed", 3, "--out", out]
    return out, call(sample, *arguments, "--steps", "2,1,1")


@pytest.mark.slow
def test_every_picture_of_every_stage_is_there(painted):
    out, result = painted
    assert result.code == 0, result.err
    stems = ["00-a-red-apple-0", "00-a-red-apple-1", "01-a-cat-face-0", "01-a-cat-face-1"]
    names = {f"{stem}-{side}.png" for stem in stems for side in (16, 32, 64)}
    assert set(tree(out)) == names | {"contact_sheet.png", "manifest.json"}
    for name in names:
        side = int(name.rpartition("-")[2].removesuffix(".png"))
        assert Image.open(out / name).size == (side, side)
    assert result.out.split() == [str(out / f"{stem}-64.png") for stem in stems]
    assert Image.open(out / "contact_sheet.png").width >= 2 * 64
    last_bar = result.err.rpartition("\r")[2]
    assert "64 pixels: 100%" in last_bar and "1/1" in last_bar


def test_the_manifest_says_how_the_pictures_were_made(painted, steps):
    out, _ = painted
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert [(p["prompt"], p["picture"]) for p in manifest["pictures"]] == [
        (prompt, picture) for prompt in PROMPTS[:2] for picture in (0, 1)
    ]
    for picture in manifest["pictures"]:
        assert [name.rpartition("-")[2] for name in picture["files"]] == [
            "16.png",
            "32.png",
            "64.png",
        ]
        assert all((out / name).is_file() for name in picture["files"])
    assert [stage["sampling"]["num_steps"] for stage in manifest["stages"]] == [2, 1, 1]
    for stage, step in zip(manifest["stages"], steps, strict=True):
        assert stage["name"] == step.stage.config.name
        assert stage["origin"] == step.stage.origin.name
        mesh = make_mesh(MeshConfig())
        for network in ("unet", "text_encoder"):
            params = getattr(step.stage, network).load(mesh)
            assert stage[f"{network}_sha256"] == digest(params)
        assert stage["sampling"]["guidance_scale"] == 3.0
    assert manifest["versions"]["jax"] == jax.__version__


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(painted, stages, tmp_path):
    out, _ = painted
    base = ["--base", stages / "base.safetensors", "--sr256", "none", "--num-images", 2]
    for seed in (3, 4):
        arguments = [*PROMPTS[:2], *base, "--seed", seed, "--out", tmp_path / str(seed)]
        assert call(sample, *arguments).code == 0
    again, other, first = (tree(path) for path in (tmp_path / "3", tmp_path / "4", out))
    pictures = [name for name in again if name.endswith("-16.png")]
    assert len(pictures) == 4
    assert all(again[name] == first[name] for name in pictures)
    assert all(other[name] != first[name] for name in pictures)


@pytest.mark.slow
def test_each_network_is_gone_before_the_next_is_loaded(steps, monkeypatch):
    """Three encoders, then three U-Nets: not one array of one is alive when another comes."""
    load, alive, loaded = StoredNetwork.load, [], []

    def watch(network, mesh):
        assert not any(array() is not None for array in alive), f"before {loaded}"
        params = load(network, mesh)
        alive.extend(map(weakref.ref, jax.tree.leaves(params)))
        loaded.append((network.name, network.origin))
        return params

    monkeypatch.setattr(StoredNetwork, "load", watch)
    few = [painting.SampledStage(s.stage, tiny.replace(s.settings, num_steps=1)) for s in steps]
    paint(few, PROMPTS[:1], devices=1, batch_size=1)
    names = ["text_encoder"] * 3 + ["unet"] * 3
    assert loaded == list(zip(names, [s.stage.origin for s in 2 * steps], strict=True))
    assert alive and not any(array() is not None for array in alive)


def test_flags_set_each_stage(stages, tmp_path, monkeypatch):
    """One value for all stages, or one for each; written to the manifest as they were used."""
    paint_nothing(monkeypatch)
    settings = ["--steps", "1,3", "--sampler", "ddim", "--guidance", "1", "--aug-level", "0,0.5"]
    two = ["--base", stages / "base.safetensors", "--sr256", stages / "sr256.safetensors"]
    arguments = ["rocket", *two, "--sr1024", "none", *settings, "--out", tmp_path]
    assert call(sample, *arguments).code == 0
    used = [s["sampling"] for s in json.loads((tmp_path / "manifest.json").read_text())["stages"]]
    assert [s["num_steps"] for s in used] == [1, 3]
    assert [s["sampler"] for s in used] == ["ddim", "ddim"]
    assert [s["guidance_scale"] for s in used] == [1.0, 1.0]
    assert [s["aug_level"] for s in used] == [0.0, 0.5]
    assert not list(tmp_path.glob("*-64.png"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "others", "sides", "ends"),
    [
        (["base"], [], {16}, "base"),
        (["base", "sr256"], [], {16, 32}, "sr256"),
        (["base", "sr256"], ["--sr1024=none"], {16, 32}, None),
        ([], [], {64, 256, 1024}, None),
        ([], ["--sr256=shipped"], {64, 256, 1024}, None),
    ],
)
def test_after_a_stage_of_ones_own_come_only_those_that_are_named(
    own, others, sides, ends, stages, tmp_path, monkeypatch
):
    paint_nothing(monkeypatch)
    named = [f"--{name}={stages / name}.safetensors" for name in own]
    result = call(sample, "rocket", *named, *others, "--out", tmp_path)
    assert result.code == 0, result.err
    assert {int(p.stem.rpartition("-")[2]) for p in tmp_path.glob("*-*.png")} == sides
    said = f"The last stage is --{ends}: the stages that ship with this package do not follow"
    assert (said in result.err) if ends else ("The last stage" not in result.err)


def test_hostile_prompts_make_harmless_file_names(stages, tmp_path, monkeypatch):
    paint_nothing(monkeypatch)
    prompts = ["../../etc/passwd", "a\nb", "яблоко 🍎", "x" * 300, "a;rm -rf *"]
    base = ["--base", stages / "base.safetensors", "--sr256", "none", "--steps", 1]
    result = call(sample, *base, "--out", tmp_path / "out", "--", *prompts)
    assert result.code == 0, result.err
    names = set(tree(tmp_path)) - {"out", "out/contact_sheet.png", "out/manifest.json"}
    assert len(names) == len(prompts)
    kept = set("out/abcdefghijklmnopqrstuvwxyz0123456789-.яблоко")
    assert all(set(name) <= kept for name in names)
    assert max(map(len, names)) < 80
    written = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    said = [prompt.replace("\n", " ") for prompt in prompts]
    assert [picture["prompt"] for picture in written["pictures"]] == said


def paint(steps, prompts, *, devices, split_height=1, num_images=1, batch_size=4, seed=3, **size):
    """Pictures of the last stage, on the first `devices` devices."""
    mesh = make_mesh(MeshConfig(spatial=split_height), jax.devices()[:devices])
    cascade = Cascade([step.stage for step in steps], mesh=mesh, keep="one")
    painted = cascade(prompts, seed=seed, num_images=num_images, batch_size=batch_size, **size)
    return painted.stages[-1].astype(int)


@pytest.fixture(scope="module")
def alone(steps):
    """Picture 0 of the last prompt after two stages, painted by itself on one device."""
    return paint(steps[:2], PROMPTS[2:], devices=1, batch_size=1)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "settings", "place"),
    [
        (PROMPTS, {"devices": 8}, 2),
        (PROMPTS, {"devices": 1, "batch_size": 2, "num_images": 2}, 4),
        (PROMPTS, {"devices": 8, "split_height": 4}, 2),
    ],
    ids=["eight devices", "other prompts, numbers and batches", "split heights"],
)
def test_a_picture_depends_on_its_prompt_seed_and_number_alone(
    alone, steps, prompts, settings, place
):
    pictures = paint(steps[:2], prompts, **settings)
    assert len(pictures) == len(prompts) * settings.get("num_images", 1)
    assert np.abs(pictures[place] - alone).max() <= 1
    others = [picture for i, picture in enumerate(pictures) if i != place]
    assert all(np.abs(other - alone).max() > 10 for other in others)


@pytest.mark.slow
def test_split_heights_paint_the_same_pictures_of_other_sizes(steps):
    """24 rows of the second stage's pictures on four devices."""
    options = {"prompts": PROMPTS[2:], "batch_size": 1, "size": (12, 20)}
    one = paint(steps[:2], devices=1, **options)
    split = paint(steps[:2], devices=4, split_height=4, **options)
    assert split.shape == (1, 24, 40, 3)
    assert np.abs(split - one).max() <= 1 and np.ptp(one) > 10


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ([0, 1, 2], None),
        ([0], None),
        ([1, 2], "tiny_32.* takes 16-pixel pictures, but it comes first"),
        ([0, 2], "tiny_64.* takes 32-pixel pictures, but the stage before paints 16 pixels"),
        ([0, 1, 0], "tiny_base.* takes no picture, but the stage before paints 32 pixels"),
    ],
)
def test_stages_must_fit_each_other(order, says, steps):
    chosen = [steps[i] for i in order]
    mesh = make_mesh(MeshConfig())
    if says is None:
        painting.check_order(chosen, mesh)
    else:
        with pytest.raises(painting.UsageError, match=says):
            painting.check_order(chosen, mesh)


def test_every_device_gets_as_many_rows_of_the_size_that_is_painted(stages, steps):
    """A height of 16 divides over four devices, and one of 6 does not."""
    mesh = make_mesh(MeshConfig(spatial=4))
    sized = [painting.SampledStage(s.stage, s.settings, (6, 16)) for s in steps[:2]]
    painting.check_order(steps[:2], mesh)
    with pytest.raises(painting.UsageError, match="6 pixels high does not divide over 4"):
        painting.check_order(sized, mesh)
    wanted = ["--size", "6x16", "--split-height", 4, "--sr1024", "none"]
    refused(call(sample, "a", *flags(stages)[:4], *wanted), "6 pixels high does not divide")


@pytest.mark.slow
def test_flags_say_how_large_the_pictures_are(stages, tmp_path, monkeypatch):
    paint_nothing(monkeypatch)
    for flag, sizes in (("--size=8x20", [(8, 20), (16, 40), (32, 80)]),
                        ("--aspect=1:4", [(32, 8), (64, 16), (128, 32)])):  # fmt: skip
        result = call(sample, "rocket", *flags(stages), flag, "--out", tmp_path)
        assert result.code == 0, result.err
        for (height, width), side in zip(sizes, (16, 32, 64), strict=True):
            picture = Image.open(tmp_path / f"00-rocket-0-{side}.png")
            assert picture.size == (width, height)
    for other in ("--size=8x20", "--size=16x16"):
        again = call(sample, "rocket", *flags(stages), other, "--resume", "--out", tmp_path)
        refused(again, "is of another run: its stage 0.size is [32, 8]")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--size", "9x8"], "size is 9x8; the height 9 must be a multiple of 2, from 2 to 8192"),
        (["--size", "8x9"], "the width 9 must be a multiple of 2"),
        (["--size", "0x8"], "the height 0 must be"),
        (["--size", "8x8194"], "the width 8194 must be"),
        (["--size", "8"], "size is '8'; it must be a height and a width"),
        (["--size=-8x8"], "size is '-8x8'"),
        (["--size", "8x8", "--aspect", "1:1"], "--size is '8x8' and --aspect is '1:1'"),
        (["--aspect", "3:0"], "aspect is '3:0'; it must be a width and a height"),
        (["--aspect", "nan:1"], "aspect is 'nan:1'"),
        (["--aspect", "1000:1"], "aspect is '1000:1'; of a picture with the area of 16x16"),
    ],
)
def test_sizes_that_cannot_be_painted_are_refused(given, says, stages, tmp_path, monkeypatch):
    paint_nothing(monkeypatch)
    refused(call(sample, "a", *flags(stages), *given, "--out", tmp_path / "out"), says)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_training_directory_and_its_export_paint_the_same_pixels(tmp_path):
    """The EMA counts: the parameters themselves are others."""
    config, workdir = CONFIGS["base"], tmp_path / "run"
    claim_directory(workdir, config)
    ema = tiny.random_params(config, 8)
    state = tiny.state(config, 5, seed=7).replace(ema=ema)
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(jax.tree.map(jax.numpy.asarray, state), config, pictures=40)
    checkpoints.close()
    file = tmp_path / "base.safetensors"
    assert call(verbs, "export", workdir, file, "--dtype", "float32").code == 0
    for origin in (workdir, file):
        out = ["--sr256", "none", "--out", tmp_path / f"out-{origin.name}"]
        assert call(sample, "a red apple", "--base", origin, *out).code == 0
    name = "00-a-red-apple-0-16.png"
    ours, theirs = (tmp_path / f"out-{origin.name}" / name for origin in (workdir, file))
    np.testing.assert_array_equal(Image.open(ours), Image.open(theirs))
    save_stage_file(tmp_path / "ema.safetensors", config, ema, "float32")
    step = painting.SampledStage(open_stage(tmp_path / "ema.safetensors"), config.sampling)
    expected = paint([step], ["a red apple"], devices=1, seed=0)
    assert np.abs(np.asarray(Image.open(tmp_path / "out-run" / name)) - expected[0]).max() <= 1


@pytest.mark.slow
def test_raw_weights_are_painted_with_where_they_are_asked_for(tmp_path):
    config, workdir = CONFIGS["base"], tmp_path / "run"
    claim_directory(workdir, config)
    state = tiny.state(config, 5).replace(ema=tiny.random_params(config, 8))
    with contextlib.closing(Checkpoints(workdir, keep=1)) as checkpoints:
        checkpoints.save(jax.tree.map(jax.numpy.asarray, state), config, pictures=40)
    for weights, wanted in (("ema", state.ema), ("raw", state.params)):
        out = tmp_path / weights
        arguments = ["--base", workdir, "--sr256", "none", "--weights", weights, "--out", out]
        assert call(sample, "a red apple", *arguments).code == 0
        stage = json.loads((out / "manifest.json").read_text())["stages"][0]
        assert (stage["weights"], stage["unet_sha256"]) == (weights, digest(wanted["unet"]))
        held = open_stage(workdir, weights).text_encoder.load(make_mesh(MeshConfig()))
        jax.tree.map(np.testing.assert_array_equal, held, wanted["text_encoder"])


def test_a_file_is_not_painted_with_weights_that_it_does_not_hold(stages):
    for weights, says in (
        ("raw", "base.safetensors holds ema weights only; raw were asked for"),
        ("ema,ema,raw", "sr1024.safetensors holds ema weights only"),
        ("best", "--weights: 'best'"),
        ("ema,raw", "--weights has 2 values, but 3 stages run"),
    ):
        refused(call(sample, "a", *flags(stages), "--weights", weights), says)
