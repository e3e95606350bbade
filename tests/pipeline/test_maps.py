"""Maps of classes, sketches and masks that a user gives: as stages read and follow them."""

import json

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, refused, sample

import imagen_jax
from imagen_jax.config import MeshConfig
from imagen_jax.config.conditions import PictureCondition
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.editing import edit_of
from imagen_jax.pipeline.maps import fit_map, known_part, read_map, read_palette
from imagen_jax.stored.stages import open_stage
from imagen_jax.weights.stage_file import save_stage_file

SETTINGS = {"num_steps": 2, "guidance_scale": 2.0}
SHOWN = {"pictures": ("labels:classes=3", "sketch:1", "hole:mask"), "picture_dropout": 0.2}
BASE = tiny.stage(conditions=SHOWN, sampling=SETTINGS)
ENLARGES = tiny.super_resolution(
    resolution=32, low_resolution=16, conditions=SHOWN, sampling=SETTINGS
)
LABELS = PictureCondition("labels", "labels", 3)
NUMBERS = np.kron(np.array([[0, 1], [2, 255]], np.uint8), np.ones((8, 8), np.uint8))
PALETTE = {"#000000": 0, "#ff0000": 1, "#00ff00": 2, "#ffffff": 255}
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 255]], np.uint8)
COLOURED = COLOURS[np.minimum(NUMBERS, 3)]
SKETCH = np.where(np.eye(16, dtype=bool), 0, 255).astype(np.uint8)
ONLY = ("--sr256", "none")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stages")
    for name, config in (("base", BASE), ("sr256", ENLARGES)):
        path = directory / f"{name}.safetensors"
        save_stage_file(path, config, tiny.random_params(config), "float32")
    Image.fromarray(NUMBERS).save(directory / "numbers.png")
    Image.fromarray(COLOURED).save(directory / "coloured.png")
    Image.fromarray(SKETCH).save(directory / "sketch.png")
    (directory / "palette.json").write_text(json.dumps(PALETTE))
    return directory


@pytest.fixture(scope="module")
def base(files):
    cascade = imagen_jax.load_cascade(base=files / "base.safetensors")
    return lambda **options: cascade("a cat", **options).stages[0].astype(int)


def test_a_map_is_the_same_as_numbers_and_by_a_palette(files):
    palette = read_palette(files / "palette.json")
    assert palette == read_palette(PALETTE)
    for given, by in ((NUMBERS, None), (files / "numbers.png", None),
                      (COLOURED, palette), (files / "coloured.png", palette),
                      (Image.fromarray(COLOURED).convert("P"), palette)):  # fmt: skip
        np.testing.assert_array_equal(read_map(LABELS, given, by)[..., 0], NUMBERS)
    assert np.unique(fit_map(LABELS, NUMBERS[..., None], (6, 6))).tolist() == [0, 1, 2, 255]


def with_pixel(colour):
    pixels = COLOURED.copy()
    pixels[3, 5] = colour
    return pixels


def clear(alpha):
    return np.concatenate([COLOURED, np.full((16, 16, 1), alpha, np.uint8)], -1)


@pytest.mark.parametrize(
    ("given", "palette", "says"),
    [
        (with_pixel((1, 2, 3)), PALETTE, "has the colour '#010203' in row 3, column 5; the pal"),
        (clear(128), PALETTE, "has the colour '#7f7f7f' in row 0, column 0"),
        (COLOURED, None, r"labels without numbers \(mode RGB\)"),
        (NUMBERS + 3, None, "class out of range .labels has 3; there are 0 to 2"),
        (COLOURED, {"#000000": 7}, "has the colour '#ff0000' in row 0, column 8"),
        (np.zeros((4, 4, 3), np.uint8), {"#000000": 7}, "labels has 7; there are 0 to 2"),
        (NUMBERS.astype(np.uint16), None, "uint16 of shape"),
    ],
)
def test_what_is_no_class_is_refused_where_it_stands(given, palette, says):
    with pytest.raises(UsageError, match=says):
        read_map(LABELS, given, read_palette(palette))


@pytest.mark.parametrize("name", ["map.jpg", "map.mpo"])
def test_a_file_that_keeps_no_exact_numbers_is_refused(name, tmp_path):
    """Its borders between the classes 0 and 2 would have the class 1."""
    more = {"save_all": True, "append_images": [Image.new("L", (16, 16))]}
    image = Image.fromarray(np.repeat(np.array([[0, 2]], np.uint8), 8, 1).repeat(16, 0))
    image.save(tmp_path / name, **(more if name.endswith("mpo") else {}))
    for given in (tmp_path / name, Image.open(tmp_path / name)):
        with pytest.raises(UsageError, match="labels in a lossy format .(JPEG|MPO)"):
            read_map(LABELS, given)


def test_transparent_and_deep_and_turned_maps_are_read_as_pictures_are(tmp_path):
    np.testing.assert_array_equal(read_map(LABELS, clear(0), {(255,) * 3: 1}), 1)
    deep = Image.fromarray((SKETCH.astype(np.uint16) << 8) + 7)
    deep.save(tmp_path / "deep.png")
    found = read_map(PictureCondition("sketch", "grey"), tmp_path / "deep.png")
    np.testing.assert_array_equal(found[..., 0], SKETCH)
    turned, exif = Image.fromarray(np.array([[0, 1]], np.uint8)), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert read_map(LABELS, tmp_path / "turned.png")[..., 0].tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("palette", "says"),
    [
        ({}, "must map at least one colour"),
        ({"red": 1}, 'has "red": 1; it must map'),
        ({"#ff0000": -1}, 'has "#ff0000": -1; it must map'),
        ({"#ff0000": True}, 'has "#ff0000": True'),
        ({"#ff0000": "sky"}, "has \"#ff0000\": 'sky'"),
        ([1], "must map at least one colour"),
    ],
)
def test_a_palette_that_is_none_is_refused(palette, says):
    with pytest.raises(UsageError, match=says):
        read_palette(palette)


def test_the_known_part_is_the_picture_that_is_edited_and_its_mask():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    known, there = known_part(edit_of(picture, SKETCH > 0), (16, 16))
    assert there and known.shape == (16, 16, 4)
    np.testing.assert_array_equal(known[..., :3], picture)
    np.testing.assert_array_equal(known[..., 3], SKETCH)
    for nothing in (None, edit_of(picture)):
        known, there = known_part(nothing, (16, 16))
        assert not there and np.all(known[..., 3] == 255)


def test_each_map_changes_what_is_painted_and_may_be_left_out(base):
    plain, labels = base(), {"labels": NUMBERS}
    for shown in (labels, {"sketch": SKETCH}):
        assert np.abs(base(pictures=shown) - plain).max() > 1
    assert np.abs(base(pictures=labels | {"sketch": SKETCH}) - base(pictures=labels)).max() > 1
    by_colours = base(pictures={"labels": COLOURED}, palette=PALETTE)
    np.testing.assert_array_equal(by_colours, base(pictures=labels))
    larger = np.kron(NUMBERS, np.ones((5, 5), np.uint8))
    np.testing.assert_array_equal(base(pictures={"labels": larger}), base(pictures=labels))


def test_the_mask_of_an_edit_is_shown_to_the_network(files, base):
    """The same edit by a stage that was never shown a mask gives another picture."""
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    edit = {"image": picture, "mask": SKETCH > 0}
    found, other = base(**edit), base(**edit | {"mask": np.roll(SKETCH > 0, 3, 1)})
    np.testing.assert_array_equal(found[0][SKETCH == 0], picture[SKETCH == 0])
    assert np.abs(found - other).max() > 1


def test_pictures_have_a_guidance_weight_of_their_own(base):
    shown = {"pictures": {"sketch": SKETCH}}
    plain = base(**shown)
    np.testing.assert_array_equal(base(**shown, picture_guidance_scale=1.0), plain)
    assert np.abs(base(**shown, picture_guidance_scale=3.0) - plain).max() > 1
    # Without a picture there is nothing to be guided by.
    assert np.abs(base(picture_guidance_scale=3.0) - base()).max() <= 1


def test_an_interpolation_follows_its_map_all_the_way(base):
    shown = {"pictures": {"labels": NUMBERS}}
    way = base(**shown, interpolate=2, to_seed=1)
    assert np.abs(way[0] - base(**shown)[0]).max() <= 1
    assert np.abs(way[1] - base(interpolate=2, to_seed=1)[1]).max() > 1


@pytest.mark.slow
def test_super_resolution_follows_maps_at_its_own_size(files):
    cascade = imagen_jax.load_cascade(
        base=files / "base.safetensors", sr256=files / "sr256.safetensors"
    )
    plain = cascade("a cat").stages
    told = cascade("a cat", pictures={"sketch": np.kron(SKETCH, np.ones((2, 2), np.uint8))}).stages
    assert told[1].shape == (1, 32, 32, 3)
    assert np.abs(told[1].astype(int) - plain[1]).max() > 1


@pytest.mark.slow
def test_maps_are_split_with_the_pictures_height(files):
    """Of a small map and a large sketch each of four devices needs its own rows."""
    paths = [files / "base.safetensors", files / "sr256.safetensors"]
    large = np.kron(SKETCH, np.ones((3, 3), np.uint8))
    shown = {"pictures": {"labels": NUMBERS, "sketch": large}, "picture_guidance_scale": 2.0}
    mesh = make_mesh(MeshConfig(spatial=4), jax.devices()[:4])
    split = Cascade([open_stage(path) for path in paths], mesh=mesh)
    wanted = imagen_jax.load_cascade(base=paths[0], sr256=paths[1])("a cat", **shown)
    found = split("a cat", batch_size=1, **shown)
    for ours, theirs in zip(found.stages, wanted.stages, strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    upside = {name: x[::-1] for name, x in shown["pictures"].items()}
    other = split("a cat", batch_size=1, **shown | {"pictures": upside})
    assert np.abs(other.stages[1].astype(int) - wanted.stages[1]).max() > 10


@pytest.mark.slow
def test_the_shell_paints_the_same_and_again_from_its_manifest(files, base, tmp_path):
    words = ("a cat", "--base", files / "base.safetensors", *ONLY, "--picture-guidance", 2,
             "--labels", files / "coloured.png", "--palette", files / "palette.json",
             "--sketch", files / "sketch.png")  # fmt: skip
    done = call(sample, *words, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    painted = np.asarray(Image.open(tmp_path / "out" / "00-a-cat-0-16.png"))
    shown = {"labels": NUMBERS, "sketch": SKETCH}
    np.testing.assert_array_equal(base(pictures=shown, picture_guidance_scale=2.0)[0], painted)
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert {x: len(sums[0]) for x, sums in manifest["pictures_sha256"].items()} == {
        "labels": 64, "sketch": 64,
    }  # fmt: skip
    assert manifest["stages"][0]["sampling"]["picture_guidance_scale"] == 2
    again = call(sample, "--from-manifest", path, "--out", tmp_path / "again")
    assert again.code == 0 and "not those of" not in again.err
    then, now = (x / "00-a-cat-0-16.png" for x in (tmp_path / "out", tmp_path / "again"))
    assert then.read_bytes() == now.read_bytes()
    Image.fromarray(255 - SKETCH).save(tmp_path / "other.png")
    other = call(sample, "--from-manifest", path, "--sketch", tmp_path / "other.png",
                 "--out", tmp_path / "other")  # fmt: skip
    refused(other, "its pictures_sha256 is")


@pytest.mark.slow
def test_without_maps_a_manifest_is_as_it_was(files, tmp_path):
    done = call(
        sample, "a cat", "--base", files / "base.safetensors", *ONLY, "--out", tmp_path / "o"
    )
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert "pictures_sha256" not in manifest
    assert "picture_guidance_scale" not in manifest["stages"][0]["sampling"]


@pytest.mark.slow
def test_the_shell_says_what_does_not_fit(files, tmp_path):
    own = ("a cat", "--base", files / "base.safetensors", *ONLY, "--out", tmp_path / "out")
    refused(call(sample, *own, "--palette", files / "palette.json"), "--palette is of a map")
    refused(call(sample, *own, "--maps", "depth"), "--maps has 'depth'; it must be a name, =")
    refused(call(sample, *own, "--maps", "depth=x.png"), "No stage is told 'depth'")
    again = ("--sketch", files / "sketch.png", "--maps", f"sketch={files / 'sketch.png'}")
    refused(call(sample, *own, *again), "'sketch' is given twice")
    refused(call(sample, *own, "--maps", f"hole={files / 'sketch.png'}"), "as image and mask")
    refused(call(sample, *own, "--labels", files / "coloured.png"), "labels without numbers")
    mixed = ("--sketch", files / "sketch.png", "--palette", files / "palette.json")
    refused(call(sample, *own, *mixed), "a palette, but no map of classes")
    plain = tiny.stage(sampling=SETTINGS)
    save_stage_file(tmp_path / "p.safetensors", plain, tiny.random_params(plain), "float32")
    bare = ("a cat", "--base", tmp_path / "p.safetensors", *ONLY, "--out", tmp_path / "out")
    refused(call(sample, *bare, "--picture-guidance", 2), "picture_guidance_scale is 2, but no")
    refused(call(sample, *bare, "--sketch", files / "sketch.png"), "No stage is told 'sketch'")
