"""Steering by `sample.py`: each picture is that of a plain call with the same settings."""

import functools
import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, refused, sample, tree

import imagen_jax
from imagen_jax.cli.prompts_file import read_prompts_file
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.callbacks import Progress
from imagen_jax.pipeline.previews import Previews
from imagen_jax.weights.stage_file import save_stage_file

CONFIGS = {
    "base": tiny.stage(name="tiny_base", sampling={"num_steps": 3, "guidance_scale": 2.0}),
    "sr256": tiny.super_resolution(
        name="tiny_32", low_resolution=16, resolution=32,
        sampling={"num_steps": 2, "guidance_scale": 2.0},
    ),
}  # fmt: skip
TABLE = """prompt,seed,guidance_scale,negative_prompt
a red apple,,,
a cat face,7,"[3, 1]",
a red apple,,,a pear
a rocket,,"[3, 1]",
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("steered")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        params = tiny.random_params(config, seed)
        save_stage_file(directory / f"{name}.safetensors", config, params, "float32")
    return directory


@pytest.fixture(scope="module")
def cascade(directory):
    stages = {name: directory / f"{name}.safetensors" for name in CONFIGS}
    return functools.partial(imagen_jax.load_cascade(**stages), progress=False)


@pytest.fixture
def run(directory, tmp_path):
    """`sample.py` with both stages, in the directory `out`."""
    stages = [part for name in CONFIGS for part in (f"--{name}", directory / f"{name}.safetensors")]
    flags = (*stages, "--sr1024", "none", "--out", tmp_path / "out", "--seed", "3")
    return functools.partial(call, sample, *flags)


def picture(out, name):
    return np.asarray(Image.open(out / f"{name}-32.png"))


def close(ours, theirs):
    """Batches of another size round in another way."""
    return np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.slow
def test_a_negative_prompt_is_that_of_python(run, cascade, tmp_path):
    result = run("a red apple", "--negative-prompt", "a pear")
    assert result.code == 0, result.err
    wanted = cascade("a red apple", seed=3, negative_prompt="a pear").stages[-1][0]
    plain = cascade("a red apple", seed=3).stages[-1][0]
    found = picture(tmp_path / "out", "00-a-red-apple-0")
    np.testing.assert_array_equal(found, wanted)
    assert not close(found, plain)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["negative_prompt"] == "a pear"


@pytest.mark.slow
def test_each_row_of_a_table_is_painted_with_its_settings(run, cascade, tmp_path):
    (tmp_path / "prompts.csv").write_text(TABLE)
    result = run("--prompts-file", tmp_path / "prompts.csv", "--num-images", "2")
    assert result.code == 0, result.err
    rows = [
        ("00-a-red-apple", "a red apple", {}),
        ("01-a-cat-face", "a cat face", {"seed": 7, "guidance_scale": [3.0, 1.0]}),
        ("02-a-red-apple", "a red apple", {"negative_prompt": "a pear"}),
        ("03-a-rocket", "a rocket", {"guidance_scale": [3.0, 1.0]}),
    ]
    for stem, prompt, own in rows:
        wanted = cascade(prompt, num_images=2, **{"seed": 3, **own}).stages[-1]
        for number in range(2):
            assert close(picture(tmp_path / "out", f"{stem}-{number}"), wanted[number]), stem
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["each"][1] == {"seed": 7, "guidance_scale": [3, 1]}
    assert manifest["seed"] == [3, 7, 3, 3]
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "03-a-rocket-1-32.png").unlink()
    again = run(
        "--prompts-file", tmp_path / "prompts.csv", "--num-images", "2", "--resume"
    )  # fmt: skip
    assert again.code == 0, again.err
    assert tree(tmp_path / "out") == before


def test_lines_are_prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red  apple\n\n a, cat\n")
    assert read_prompts_file(str(tmp_path / "prompts.txt")) == (["a red  apple", "a, cat"], None)


def test_a_prompt_of_a_table_keeps_the_lines_and_separators_that_it_has(tmp_path):
    text = 'prompt,seed\n"a red\napple, cut",1\na\u2028b\x85c,2\n"d",\n'
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    prompts, settings = read_prompts_file(str(tmp_path / "p.csv"))
    assert prompts == ["a red\napple, cut", "a\u2028b\x85c", "d"]
    assert settings == [{"seed": 1}, {"seed": 2}, {}]


def test_columns_of_a_table_may_have_spaces_round_their_names(tmp_path):
    (tmp_path / "p.csv").write_text("\ufeffprompt , seed \na cat , 3\n", encoding="utf-8")
    assert read_prompts_file(str(tmp_path / "p.csv")) == (["a cat"], [{"seed": 3}])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.txt", "\n \n", "has no prompt"),
        ("p.csv", "prompt\n", "has no prompt"),
        ("p.csv", "text\na\n", "no column 'prompt'"),
        ("p.csv", "", "no column 'prompt'"),
        ("p.csv", "prompt,seed\n,3\n", "line 2, has no prompt"),
        ("p.csv", "prompt,seed\na,3,4\n", "line 2, has more cells"),
        ("p.csv", 'prompt\n"a\n', "is no table"),
        ("none.txt", None, "cannot be read: No such file"),
    ],
)
def test_files_without_prompts_are_refused(name, text, says, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=says):
        read_prompts_file(str(tmp_path / name))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ("seed\na,-1\n", "The seed is -1"),
        ("seed\na,x\n", "The seed is 'x'"),
        ("seed\na,true\n", "The seed is True"),
        ('guidance_scale\na,"[1, 2, 3]"\n', "guidance_scale has 3 values; give one, or a list"),
        ("guidance_scale\na,NaN\n", "guidance_scale is nan; it must be finite"),
        ("colour\na,red\n", "'colour' is no setting"),
        ("guidance_scale\na,much\n", "guidance_scale is 'much'; it must be a number"),
        ("max_threshold\na,much\n", "max_threshold is 'much'; it must be a number"),
        ("sampler\na,3\n", "sampler is 3; it must be text"),
        ("num_steps\na,0\n", "num_steps is 0"),
        (f"num_steps\na,{'[' * 100_000}\n", "num_steps"),
        ("size\na,64x64\n", "'size' is no setting"),
        ("strength\na,0.5\n", "strength is 0.5, but there is no image"),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_settings_of_a_row_that_mean_nothing_are_refused(cells, says, run, tmp_path):
    (tmp_path / "p.csv").write_text(f"prompt,{cells}")
    refused(run("--prompts-file", tmp_path / "p.csv"), says)
    refused(run("a", "--prompts-file", tmp_path / "p.csv"), "prompts and --prompts-file; give one")


@pytest.mark.slow
def test_noise_of_ones_own_takes_the_place_of_the_seeds(run, cascade, tmp_path):
    noise = np.random.default_rng(0).normal(size=(16, 16, 3))
    np.save(tmp_path / "noise.npy", noise)
    result = run("a red apple", "--init-noise", tmp_path / "noise.npy")
    assert result.code == 0, result.err
    found = picture(tmp_path / "out", "00-a-red-apple-0")
    wanted = cascade("a red apple", seed=3, init_noise=noise)
    np.testing.assert_array_equal(found, wanted.stages[-1][0])
    assert not close(found, cascade("a red apple", seed=3).stages[-1][0])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["init_noise"]["sha256"]) == 64
    both = np.stack([noise, -noise])
    pair = cascade("a red apple", seed=3, init_noise=both, num_images=2).stages[-1]
    assert close(pair[0], found) and not close(pair[1], found)


@pytest.mark.slow
def test_noise_that_a_seed_would_draw_changes_nothing(cascade):
    """The noise of the ancestral steps stays the seed's."""
    from imagen_jax.diffusion.samplers import initial_noise
    from imagen_jax.pipeline.sampling import picture_keys

    drawn = np.asarray(initial_noise(picture_keys(3, 16, 1), (16, 16, 3)))
    ours = cascade("a red apple", seed=3, init_noise=drawn).stages[-1]
    assert close(ours, cascade("a red apple", seed=3).stages[-1])
    image = np.zeros((32, 32, 3), np.uint8)
    edit = {"image": image, "strength": 0.6, "seed": 3}
    edited = cascade("a red apple", init_noise=drawn, **edit).stages[-1]
    assert close(edited, cascade("a red apple", **edit).stages[-1])


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        (np.zeros((8, 8, 3)), "has the shape (8, 8, 3) for each picture; it must be (16, 16, 3)"),
        (np.zeros((16, 16, 3), int), "is int64; it must be finite numbers of a floating type"),
        (np.full((16, 16, 3), np.nan), "must be finite"),
        (np.array([None]), "is no .npy file of numbers"),
        (b"", "is no .npy file of numbers"),
        (b"PK\3\4 an archive of arrays", "is no .npy file of numbers"),
    ],
)
def test_noise_that_does_not_do_is_refused(noise, says, run, tmp_path):
    if isinstance(noise, bytes):
        (tmp_path / "noise.npy").write_bytes(noise)
    else:
        np.save(tmp_path / "noise.npy", noise, allow_pickle=True)
    refused(run("a red apple", "--init-noise", tmp_path / "noise.npy"), says)


# Again.


@pytest.mark.slow
def test_a_manifest_makes_the_same_files_again(directory, tmp_path, monkeypatch):
    """With all kinds of inputs, in another directory, with the manifest alone and its inputs."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("picture.png")
    Image.fromarray(pixels[:, :, 0] > 99).save("mask.png")
    np.save("noise.npy", np.random.default_rng(2).normal(size=(16, 16, 3)))
    (tmp_path / "prompts.csv").write_text(TABLE)
    stages = [part for name in CONFIGS for part in (f"--{name}", directory / f"{name}.safetensors")]
    edit = ("--image", "picture.png", "--mask=mask.png", "--strength", "0.9,0.7")
    first = call(
        sample, "--prompts_file", "prompts.csv", *stages, "--sr1024", "none", *edit, "--init-noise",
        "noise.npy", "--seed", "3", "--out", "one", "--resume",
    )  # fmt: skip
    assert first.code == 0, first.err
    again = call(sample, "--from_manifest=one/manifest.json", "--out", "two")
    assert (again.code, "not those of" in again.err) == (0, False), again.err
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    kept = json.loads((tmp_path / "one" / "manifest.json").read_text())["arguments"]
    assert "--out" not in kept and "--resume" not in kept and "mask.png" in " ".join(kept)


@pytest.mark.slow
def test_a_manifest_is_not_made_again_from_other_inputs(run, directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = np.zeros((32, 32, 3), np.uint8)
    Image.fromarray(picture).save("picture.png")
    assert run("--image", "picture.png", "--strength", "0").code == 0
    again = functools.partial(call, sample, "--from-manifest", "out/manifest.json", "--out", "new")
    refused(
        again("--seed", "4"), "out/manifest.json is of another run: its seed is 3", "this run 4;"
    )
    refused(again("--steps", "1"), "its stage 0.sampling is")
    Image.fromarray(picture + 1).save("picture.png")
    refused(again(), "its image is")
    other = directory / "other.safetensors"
    save_stage_file(other, CONFIGS["base"], tiny.random_params(CONFIGS["base"], 9), "float32")
    Image.fromarray(picture).save("picture.png")
    moved = shutil.copy(other, tmp_path / "base.safetensors")
    result = again("--base", moved)
    assert result.code == 2 and "the weights of base.safetensors were others" in result.err
    assert not (tmp_path / "new").exists()
    (tmp_path / "plain.json").write_text('{"seed": 3}')
    refused(call(sample, "--from-manifest", "plain.json"), "plain.json holds no 'arguments'")
    (tmp_path / "nul.json").write_text(r'{"arguments": ["a", "--image", "x\u0000.png"]}')
    refused(call(sample, "--from-manifest", "nul.json"), "nul.json holds no 'arguments'")
    refused(call(sample, "--from-manifest=none.json"), "none.json cannot be read")


# A second text, and the way to it.


@pytest.mark.slow
def test_a_share_of_another_text_leads_from_one_to_the_other(cascade):
    one, other = (cascade(text, seed=3).stages for text in ("a red apple", "a cat face"))
    mixed = {"positive_prompt": "a cat face", "seed": 3}
    for share, ends in ((0.0, one), (1.0, other), ([0.0, 1.0], None)):
        found = cascade("a red apple", positive_share=share, **mixed).stages
        if ends is not None:
            assert all(map(close, found, ends)), share
        else:
            assert close(found[0], one[0]) and not close(found[1], one[1])
    half = cascade("a red apple", **mixed).stages[-1]
    assert not close(half, one[-1]) and not close(half, other[-1])


@pytest.mark.slow
def test_the_share_is_of_what_is_predicted_with_text(cascade):
    """Without guidance too: then the null text is not read."""
    asked = {"seed": 3, "guidance_scale": 1.0}
    one, other = (cascade(text, **asked).stages[0] for text in ("a red apple", "a cat face"))
    mixed = cascade("a red apple", positive_prompt="a cat face", positive_share=0.0, **asked)
    assert close(mixed.stages[0], one) and not close(one, other)


@pytest.mark.slow
def test_pictures_between_two_prompts_begin_and_end_with_theirs(run, cascade, tmp_path):
    result = run("a red apple", "a cat face", "--interpolate", "3")
    assert result.code == 0, result.err
    found = [picture(tmp_path / "out", f"0{i}-a-red-apple-0") for i in range(3)]
    for one, text in ((found[0], "a red apple"), (found[2], "a cat face")):
        assert close(one, cascade(text, seed=3).stages[-1][0])
    assert not close(found[1], found[0]) and not close(found[1], found[2])
    strip = Image.open(tmp_path / "out" / "strip.png")
    assert strip.width >= 3 * 32 and strip.height < 2 * 32
    assert Image.open(tmp_path / "out" / "strip.gif").n_frames == 3
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["interpolate"], manifest["positive_prompt"]) == (3, "a cat face")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "--positive-share", "0.5"], "positive_share is [0.5, 0.5], but there is no pos"),
        (["a", "--positive-prompt", "b", "--positive-share", "2"], "--positive-share: '2'"),
        (["a", "--interpolate", "3"], "between two prompts, or to another seed"),
        (["a", "b", "--interpolate", "1"], "interpolate is 1; it must be a whole number from 2"),
        (["a", "b", "c d", "--interpolate", "3"], "there are 3 subjects"),
        (["a", "--to-seed", "3"], "to_seed is 3; it belongs to interpolate"),
        (["a", "--to-seed", "-3", "--interpolate", "3"], "The seed is -3"),
        (["a", "b", "--interpolate", "3", "--num-images", "2"], "num_images is 2"),
    ],
)
def test_ways_that_lead_nowhere_are_refused(arguments, says, run):
    refused(run(*arguments), says)


@pytest.mark.slow
def test_a_preview_shows_every_step(run, tmp_path):
    result = run("a red apple", "a cat face", "--preview")
    assert result.code == 0, result.err
    for stem in ("00-a-red-apple-0", "01-a-cat-face-0"):
        for side, steps in ((16, 3), (32, 2)):
            gif = Image.open(tmp_path / "out" / f"{stem}-{side}.gif")
            assert gif.size == (side, side) and gif.n_frames <= steps
            gif.seek(gif.n_frames - 1)
            last = np.asarray(gif.convert("RGB")).astype(int)
            png = np.asarray(Image.open(tmp_path / "out" / f"{stem}-{side}.png"))
            assert np.abs(last - png).mean() < 24, "a palette of 256 colours"


def test_a_preview_of_many_steps_is_thinned_and_small(tmp_path):
    write = Previews(tmp_path, [["a.png", "b.png"]])
    for step in range(100):
        estimate = np.full((1, 300, 600, 3), step, np.uint8)
        write(Progress(0, step, 100, estimate, (1,)))
    gif = Image.open(tmp_path / "b.gif")
    assert (gif.size, gif.n_frames) == ((256, 128), 25)
    gif.seek(24)
    assert np.asarray(gif.convert("RGB")).max() == 99
    assert not (tmp_path / "a.gif").exists()
