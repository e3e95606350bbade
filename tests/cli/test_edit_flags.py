"""Painting from a picture by `sample.py`: its files are those of a call from Python."""

import functools
import itertools
import json

import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, refused, sample, tree

import imagen_jax
from imagen_jax.weights.stage_file import save_stage_file

UNGUIDED = {"guidance_scale": 1.0}
CONFIGS = {
    "base": tiny.stage(name="tiny_base", sampling={"num_steps": 4, **UNGUIDED}),
    "sr256": tiny.super_resolution(
        name="tiny_32", low_resolution=16, resolution=32, sampling={"num_steps": 2, **UNGUIDED}
    ),
}
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
MASK = np.zeros((32, 32), bool)
MASK[5:20, 9:30] = True


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Two stages, a picture and a mask."""
    directory = tmp_path_factory.mktemp("edited")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        params = tiny.random_params(config, seed)
        save_stage_file(directory / f"{name}.safetensors", config, params, "float32")
    Image.fromarray(PICTURE).save(directory / "picture.png")
    Image.fromarray(MASK).save(directory / "mask.png")
    return directory


@pytest.fixture
def run(directory, tmp_path):
    """`sample.py` with both stages, or others that are named, in the directory `out`."""
    usual = {f"--{name}": directory / f"{name}.safetensors" for name in CONFIGS}
    usual |= {"--sr1024": "none", "--out": tmp_path / "out"}

    def run(*arguments):
        left = [pair for pair in usual.items() if pair[0] not in arguments]
        return call(sample, *itertools.chain(*left), *arguments)

    return run


@pytest.fixture
def edit(run, directory):
    return functools.partial(run, "--image", directory / "picture.png")


def painted(out, name):
    return np.asarray(Image.open(out / name))


@pytest.mark.slow
def test_an_edit_is_that_of_python(edit, directory, tmp_path):
    asked = {"strength": [0.5, 1.0], "resamplings": 2}
    flags = ("--strength", "0.5,1", "--resamplings", "2")
    result = edit("a red apple", "--mask", directory / "mask.png", *flags)
    assert result.code == 0, result.err
    cascade = imagen_jax.load_cascade(
        **{name: directory / f"{name}.safetensors" for name in CONFIGS}
    )
    wanted = cascade("a red apple", image=PICTURE, mask=MASK, progress=False, **asked)
    for stage, side in zip(wanted.stages, (16, 32), strict=True):
        found = painted(tmp_path / "out", f"00-a-red-apple-0-{side}.png")
        np.testing.assert_array_equal(found, stage[0])
    np.testing.assert_array_equal(found[~MASK], PICTURE[~MASK])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["image"]["pixels_sha256"]) == len(manifest["mask"]["pixels_sha256"]) == 64
    said = [stage["edit"] for stage in manifest["stages"]]
    assert [one["strength"] for one in said] == [0.5, 1.0]
    assert [one["resamplings"] for one in said] == [2, 2]


@pytest.mark.slow
def test_a_stage_alone_enlarges_a_picture_without_a_prompt(directory, tmp_path):
    flags = ("--base", "none", "--sr256", directory / "sr256.safetensors", "--out", tmp_path)
    picture = ("--image", directory / "picture.png", "--aug-level", "0.4")
    result = call(sample, *flags, *picture)
    assert result.code == 0, result.err
    alone = imagen_jax.load_cascade(sr256=directory / "sr256.safetensors")
    wanted = alone(image=PICTURE, aug_level=0.4, progress=False).stages[0][0]
    np.testing.assert_array_equal(painted(tmp_path, "00-unconditional-0-32.png"), wanted)
    [stage] = json.loads((tmp_path / "manifest.json").read_text())["stages"]
    assert stage["sampling"]["aug_level"] == 0.4 and stage["text_encoder_sha256"] is None
    prompted = alone("a red apple", image=PICTURE, aug_level=0.4, progress=False).stages[0][0]
    assert np.any(prompted != wanted)


def test_no_prompt_is_the_null_text(directory):
    """Guidance leads away from it, and so to it, whatever its scale."""
    base = imagen_jax.load_cascade(base=directory / "base.safetensors")
    one, three = (
        base(image=PICTURE, guidance_scale=scale, progress=False).stages[0] for scale in (1.0, 3.0)
    )
    assert np.abs(one.astype(int) - three).max() <= 1


def saved(directory, name, image, **options):
    image.save(directory / name, **options)
    return directory / name


@pytest.mark.slow
def test_pictures_of_all_kinds_are_taken(edit, directory, tmp_path):
    """Grey, a palette, an alpha, 16 bits, and one that its camera held on its side."""
    image = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[0x0112] = 8
    kinds = {
        "grey": (image.convert("L"), {}),
        "palette": (image.quantize(16), {}),
        "alpha": (image.convert("RGBA"), {}),
        "deep": (Image.fromarray(PICTURE[:, :, 0].astype(np.uint16) * 257), {}),
        "turned": (image, {"exif": exif}),
    }
    for name, (kind, options) in kinds.items():
        file = saved(tmp_path, f"{name}.png", kind, **options)
        result = edit("--image", file, "--strength", "0")
        assert result.code == 0, result.err
        found = painted(tmp_path / "out", "00-unconditional-0-32.png")
        plain = kind.convert("RGB") if name != "deep" else Image.fromarray(PICTURE[:, :, 0])
        wanted = np.asarray(plain.convert("RGB"))
        wanted = np.rot90(wanted) if name == "turned" else wanted
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mask", "m.png"], "--mask is of a picture; name that by --image FILE"),
        (["--strength", "0.5"], "--strength is of a picture"),
        (["--image", "p.png", "--inpainting", "clean"], "--inpainting is of a mask; name that by"),
        (["--image", "p.png", "--strength", "2"], "--strength: '2' was given; it must be a number"),
        (["--image", "p.png", "--strength", "0.1,0.2,0.3"], "--strength has 3 values, but 2 stage"),
        (["--image", "p.png", "--mask", "m.png", "--resamplings", "0"], "--resamplings: '0'"),
        (["--image", "p.png", "--mask", "m.png", "--inpainting", "x"], "repaint or clean"),
        (["--image", "none.png"], "The picture none.png cannot be read: No such file"),
        (["--image", "words.txt"], "words.txt: "),
        (["--image", "p.png", "--mask", "small.png"], "31x32 pixels and the picture 32x32"),
        (["--image", "p.png", "--mask", "black.png"], "The mask has no white pixel"),
        (["--image", "p.png", "--mask", "grey.png"], "the colour (0, 0, 1) in row 0, column 0"),
        (["--image", "p.png", "--base", "none", "--strength", "0.5"], "a base must come first"),
        (["--image", "p.png", "--compile-only"], "--compile-only paints nothing; leave out"),
        (["--image", "p.png", "--base", "none", "--sr256", "none"], "a cascade starts with a base"),
        (["--base", "none"], "--base is 'none'; a cascade starts with a base stage"),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_what_cannot_be_edited_ends_with_a_sentence(
    arguments, says, run, directory, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("no picture")
    tint = np.zeros((32, 32, 3), np.uint8)
    tint[..., 2] = 1
    pictures = {
        "p": PICTURE, "m": MASK, "small": MASK[:31], "black": MASK & False, "grey": tint,
    }  # fmt: skip
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(f"{name}.png")
    before = tree(tmp_path)
    prompt = [] if "--compile-only" in arguments else ["a red apple"]
    refused(run(*prompt, *arguments), says)
    assert tree(tmp_path) == before


# Beyond the picture.


@pytest.mark.slow
def test_what_is_extended_keeps_the_picture_and_paints_beside_it(edit, tmp_path):
    result = edit("a red apple", "--extend", "left,right", "16")
    assert result.code == 0, result.err
    found = painted(tmp_path / "out", "00-a-red-apple-0-32.png")
    assert found.shape == (32, 64, 3)
    np.testing.assert_array_equal(found[:, 16:48], PICTURE)
    beside = np.delete(found, range(16, 48), axis=1)
    edges = np.pad(PICTURE, ((0, 0), (16, 16), (0, 0)), mode="edge")
    assert np.abs(beside.astype(int) - np.delete(edges, range(16, 48), axis=1)).mean() > 5
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["extend"] == {"left": 16, "right": 16}
    assert manifest["image"]["size"] == [32, 32]


def test_sides_may_be_extended_by_different_widths():
    flags = sample.parse(["a", "--image", "x.png", "--extend", "left,right", "8", "top", "16"])
    assert flags.edit.extend == {"left": 8, "right": 8, "top": 16}


@pytest.mark.slow
def test_variations_need_no_prompt_and_differ(edit, tmp_path):
    result = edit("--variations", "2")
    assert result.code == 0, result.err
    one, two = (painted(tmp_path / "out", f"00-unconditional-{i}-32.png") for i in range(2))
    assert np.any(one != two)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [stage["edit"]["strength"] for stage in manifest["stages"]] == [0.7, 0.7]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--extend", "left", "many"], "'many' is no whole number of pixels"),
        (["--extend", "left", "9" * 5000], "...9999999999999' is no whole number of pixels"),
        (["--extend", "left", "8", "top"], "'top' stands alone; it takes SIDE PIXELS in pairs"),
        (["--extend", "left", "8", "top,left", "9"], "'left' is given twice"),
        (["--extend", "north", "8"], "extend has the side 'north'; there are left, right, top"),
        (["--extend", "", "8"], "extend has the side ''; there are left, right, top"),
        (["--extend", "left", "0"], "extend has 0 pixels; it must be a whole number from 1"),
        (["--extend", "left", "99999"], "none may become larger than"),
        (["--variations", "-1"], "--variations is -1; it must be at least 1"),
        (["--variations", "2", "--num-images", "2"], "--variations and --num-images say the same"),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_room_that_there_cannot_be_is_refused(arguments, says, edit):
    refused(edit("a red apple", *arguments), says)
