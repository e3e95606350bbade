"""A cascade held in Python: what a call paints, saves, compiles and reads."""

import json
import os
import re
import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, sample, tree

import imagen_jax
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline import memory
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.prompts import PromptEmbeddings
from imagen_jax.pipeline.stage import Stage
from imagen_jax.pipeline.steps import sampled_stages
from imagen_jax.stored.network import StoredNetwork
from imagen_jax.weights.stage_file import save_stage_file

PROMPTS = ("a red apple", "a cat face")
CONFIGS = {
    "base": tiny.stage(name="tiny_base", sampling={"num_steps": 2, "guidance_scale": 3.0}),
    "sr256": tiny.super_resolution(
        name="tiny_32", low_resolution=16, resolution=32, sampling={"num_steps": 2}
    ),
}


EMBEDDED = PromptEmbeddings(
    np.zeros((1, 8, 16), np.float32), np.ones((1, 8), bool), None, "", ("a rocket",)
)


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
def pictures(cascade):
    return cascade(PROMPTS, num_images=2, seed=3)


@pytest.mark.slow
def test_a_prompt_whose_words_the_base_never_met_gets_a_warning(cascade):
    with pytest.warns(UserWarning, match=r"'a zebra' names nothing that tiny_base .* 'horse'"):
        cascade.first(1)("a zebra")


def test_a_call_gives_the_pictures_of_every_stage(pictures):
    assert [stage.shape for stage in pictures.stages] == [(4, 16, 16, 3), (4, 32, 32, 3)]
    assert [image.size for image in pictures.images] == [(32, 32)] * 4
    np.testing.assert_array_equal(np.asarray(pictures.images[2]), pictures.stages[-1][2])


@pytest.mark.slow
def test_what_is_saved_is_what_sample_py_leaves(pictures, files, tmp_path):
    arguments = [*PROMPTS, "--num-images", 2, "--seed", 3, "--out", tmp_path / "script"]
    for name, path in files.items():
        arguments += [f"--{name}", path]
    assert call(sample, *arguments).code == 0
    saved = pictures.save(tmp_path / "api")
    ours, theirs = tree(tmp_path / "api"), tree(tmp_path / "script")
    manifest = json.loads(theirs.pop("manifest.json"))
    assert manifest.pop("arguments")[: len(PROMPTS)] == list(PROMPTS)
    assert json.loads(ours.pop("manifest.json")) == manifest and ours == theirs
    assert [path.name.rpartition("-")[2] for path in saved] == ["32.png"] * 4


def test_each_png_says_how_it_was_made(pictures, tmp_path):
    pictures.save(tmp_path)
    for side, stages in ((16, pictures.account[:1]), (32, pictures.account)):
        with Image.open(tmp_path / f"01-a-cat-face-1-{side}.png") as image:
            said = json.loads(image.text["imagen-jax"])
        assert (said["prompt"], said["seed"], said["picture"]) == (PROMPTS[1], 3, 1)
        assert said["stages"] == json.loads(json.dumps(stages))
        assert len(said["stages"][0]["unet_sha256"]) == 64


def test_the_contact_sheet_says_how_all_were_made(pictures, tmp_path):
    pictures.save(tmp_path)
    said = json.loads(Image.open(tmp_path / "contact_sheet.png").text["imagen-jax"])
    assert (said["prompts"], said["seed"], said["num_images"]) == (list(PROMPTS), 3, 2)
    assert said["stages"] == json.loads(json.dumps(pictures.account))
    assert len(said["stages"][1]["unet_sha256"]) == 64


def test_a_notebook_shows_the_grid(pictures, tmp_path):
    (tmp_path / "grid.png").write_bytes(pictures._repr_png_())
    assert Image.open(tmp_path / "grid.png").size == pictures.grid().size


def test_a_second_call_reads_and_compiles_nothing(cascade, pictures, monkeypatch, caplog):
    """With other prompts, another seed and other values of the traced settings."""
    assert pictures.num_images == 2, "The first call was before."

    def read_again(*_):
        raise AssertionError("Weights are read again.")

    monkeypatch.setattr(StoredNetwork, "load", read_again)
    changed = {"guidance_scale": [5.0, 2.0], "percentile": 99.9, "aug_level": 0.4, "gamma": 0.9}
    with jax.log_compiles():
        other = cascade(("a rocket", "a banana"), num_images=2, seed=8, **changed)
        said = [record.getMessage() for record in caplog.records]
        assert not [text for text in said if "Compiling" in text]
        cascade(("a rocket", "a banana"), num_images=2, seed=8, num_steps=3)
        assert [record for record in caplog.records if "Compiling" in record.getMessage()]
    assert other.stages[0].shape == (4, 16, 16, 3)


@pytest.mark.parametrize("devices", [1, 8])
def test_all_steps_of_a_first_call_are_one_program(devices, files, caplog):
    """The state lies alike after every step, and its dtypes stay."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    held = imagen_jax.load_cascade(files["base"], mesh=mesh)
    with jax.log_compiles():
        held(PROMPTS[0], num_steps=4, sampler="dpm++")
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if re.match(r"Compiling (jit\()?step\b", text)]) == 1


def test_traced_settings_change_the_pictures(cascade, pictures):
    guided = cascade(PROMPTS, num_images=2, seed=3, guidance_scale=[9.0, 1.0])
    assert np.any(guided.stages[0] != pictures.stages[0])


@pytest.mark.slow
def test_one_at_a_time_paints_the_same_and_holds_nothing(files, pictures):
    frugal = imagen_jax.load_cascade(**files, keep="one")
    again = frugal(PROMPTS, num_images=2, seed=3)
    for ours, theirs in zip(again.stages, pictures.stages, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (
        all(stage._params is None for stage in frugal.stages) and not frugal._text_encoders._readers
    )


def test_a_stream_gives_the_pictures_of_one_call(cascade, pictures):
    streamed = list(cascade.stream(PROMPTS, chunk=1, num_images=2, seed=3))
    assert [part.prompts for part in streamed] == [(PROMPTS[0],), (PROMPTS[1],)]
    together = np.concatenate([part.stages[0] for part in streamed]).astype(int)
    assert np.abs(together - pictures.stages[0]).max() <= 1


def test_a_stream_holds_one_chunk_and_takes_what_a_call_takes(cascade, pictures):
    """Also one seed a picture and embeddings; of what was given away nothing is kept."""
    options = {"num_images": 2, "prompt_embeds": cascade.embed(PROMPTS), "seed": [3, 4, 5, 6]}
    stream = cascade.stream(PROMPTS, chunk=1, **options)
    first = next(stream)
    held, pixels = weakref.ref(first.stages[0]), first.stages[0].astype(int)
    del first
    second = next(stream)
    assert held() is None
    together = cascade(PROMPTS, **options).stages[0].astype(int)
    assert np.abs(np.concatenate([pixels, second.stages[0]]) - together).max() <= 1
    assert next(cascade.stream(PROMPTS[0] * 10, num_images=2)).prompts == (PROMPTS[0] * 10,)


def test_settings_of_a_prompt_that_no_stage_has_learned_are_refused(cascade):
    """As those of all prompts are."""
    with pytest.raises(UsageError, match="picture_guidance_scale is 3, but no stage has learned"):
        cascade(PROMPTS, each=[{"picture_guidance_scale": 3.0}, {}])


def test_a_stream_gives_each_picture_its_own_noise(cascade):
    noise = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    base, options = cascade.first(1), {"num_images": 2, "init_noise": noise, "progress": False}
    together = base(PROMPTS, **options).stages[0].astype(int)
    streamed = [part.stages[0] for part in base.stream(PROMPTS, chunk=1, **options)]
    assert np.abs(np.concatenate(streamed) - together).max() <= 1
    with pytest.raises(UsageError, match=r"\(2, 16, 16, 3\); it must be .* or \(4, height, width"):
        next(base.stream(PROMPTS, chunk=1, num_images=2, init_noise=noise[:2]))
    with pytest.raises(UsageError, match="stream takes no interpolate; a call paints the whole"):
        next(base.stream(PROMPTS, chunk=1, interpolate=3))


@pytest.mark.slow
def test_every_stage_follows_the_size_of_the_base(cascade, tmp_path):
    wide = cascade(PROMPTS[0], num_images=2, seed=3, size=(8, 12))
    assert [stage.shape for stage in wide.stages] == [(2, 8, 12, 3), (2, 16, 24, 3)]
    assert [image.size for image in wide.images] == [(24, 16)] * 2
    assert all(np.ptp(stage.astype(int), axis=(1, 2)).all() for stage in wide.stages)
    wide.save(tmp_path)
    stages = json.loads((tmp_path / "manifest.json").read_text())["stages"]
    assert [stage["size"] for stage in stages] == [[8, 12], [16, 24]]
    assert {path.stem[-2:] for path in tmp_path.glob("00-*.png")} == {"16", "32"}


def test_the_size_trained_on_is_the_default(cascade, pictures):
    for same in ({"size": (16, 16)}, {"size": "16x16"}, {"aspect": "1:1"}):
        again = cascade(PROMPTS, num_images=2, seed=3, **same)
        np.testing.assert_array_equal(again.stages[-1], pictures.stages[-1])


def test_larger_pictures_leave_less_memory_for_networks(files, monkeypatch):
    """Half of this memory holds both networks of pictures as large as those trained on."""
    roomy = imagen_jax.load_cascade(**files)
    stored = [stage.stored for stage in roomy.stages]
    steps = {size: sampled_stages(stored, {}, size) for size in (None, (16, 64), (8, 8))}
    networks = [x for stage in stored for x in (stage.unet, stage.text_encoder)]
    needed = sum(memory.bytes_a_device(network.abstract, roomy.mesh) for network in networks)
    monkeypatch.setattr(memory, "device_memory", lambda _: 4 * needed)
    kept = {size: roomy._keep_for(chosen) for size, chosen in steps.items()}
    assert kept == {None: "all", (16, 64): "one", (8, 8): "all"}
    assert roomy.keep == "all"


def test_what_does_not_fit_into_memory_is_said_in_a_sentence(cascade, pictures, monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(Stage, "_sampler", lambda *_: full)
    with pytest.raises(UsageError, match="8 pictures of 16x16 pixels at once do not fit"):
        cascade(PROMPTS, num_images=2, seed=3)


IN_A_SMALL_MACHINE = """
import sys
import imagen_jax
from imagen_jax.errors import UsageError
from imagen_jax.pipeline import stage

stage._MANY_PIXELS = 2 * 16**2 - 1
cascade = imagen_jax.load_cascade(base=sys.argv[1], sr256=None)
fits = cascade("a red apple", num_images=2).stages[0]
stage.device_memory = lambda _: 2**16
alone = cascade("a red apple").stages[0]
again = cascade("a red apple", num_images=2, seed=1).stages[0]  # Known to fit, not asked again.
assert fits.shape == (2, 16, 16, 3) and alone.shape == (1, 16, 16, 3)
try:
    cascade("a red apple", num_images=3)
except UsageError as error:
    print(error)
"""


def test_cpus_are_asked_before_the_machine_runs_out(files):
    """A batch of many pixels is held against the memory of the machine, and fits this one."""
    # Steps cannot be lowered beside the type checks of tests.
    script = [sys.executable, "-c", IN_A_SMALL_MACHINE, str(files["base"])]
    environment = os.environ | {"XLA_FLAGS": ""}
    said = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("3 pictures of 16x16 pixels at once do not fit into the memory")


def test_each_picture_may_have_its_own_seed(cascade, pictures):
    seeded = cascade(PROMPTS[0], num_images=2, seed=[3, 7])
    difference = seeded.stages[0].astype(int) - pictures.stages[0][:2]
    assert np.abs(difference[0]).max() <= 1 < np.abs(difference[1]).max()


@pytest.mark.slow
def test_a_negative_prompt_takes_the_place_of_the_null_text(cascade, pictures, tmp_path):
    """Guided away from the prompt itself nothing is left to guide: it is the unguided picture."""
    options = {"num_images": 2, "seed": 3}
    cancelled = cascade(PROMPTS[0], negative_prompt=PROMPTS[0], **options)
    unguided = cascade(PROMPTS[0], guidance_scale=1.0, **options)
    difference = cancelled.stages[0].astype(int) - unguided.stages[0]
    assert np.abs(difference).max() <= 1
    assert np.any(cancelled.stages[0] != pictures.stages[0][:2])
    cancelled.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["negative_prompt"] == PROMPTS[0]


def test_embeddings_may_be_made_once(cascade, pictures):
    embedded = cascade.embed(PROMPTS)
    again = cascade(PROMPTS, num_images=2, seed=3, prompt_embeds=embedded)
    np.testing.assert_array_equal(again.stages[0], pictures.stages[0])


@pytest.mark.slow
def test_a_callback_hears_of_every_step_with_the_present_estimate(cascade, pictures):
    heard = []
    cascade(PROMPTS, num_images=2, seed=3, callback=heard.append)
    assert [(p.stage, p.step, p.num_steps) for p in heard] == [
        (0, 0, 2),
        (0, 1, 2),
        (1, 0, 2),
        (1, 1, 2),
    ]
    assert heard[0].estimate.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(heard[1].estimate, pictures.stages[0])


class Enough(Exception):
    pass


@pytest.mark.parametrize("devices", [1, 8])
def test_what_a_callback_raises_ends_the_call_and_the_next_one_paints(devices, files, caplog):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    held, heard = imagen_jax.load_cascade(files["base"], mesh=mesh), []

    def stop(progress):
        heard.append(progress.step)
        raise Enough

    with pytest.raises(Enough):
        held(PROMPTS[0], callback=stop, num_steps=4)
    assert heard == [0] and not caplog.text
    again = []
    held(PROMPTS[0], callback=again.append, num_steps=4)
    assert [progress.step for progress in again] == [0, 1, 2, 3]


def test_what_was_compiled_for_longest_unused_is_let_go(files, monkeypatch):
    monkeypatch.setattr("imagen_jax.pipeline.stage._MOST_SAMPLERS", 2)
    held = imagen_jax.load_cascade(files["base"])
    painted = np.zeros((8, 16, 16, 3), np.uint8), np.ones(8, bool)
    of_run = lambda *_: lambda *_, **__: painted  # noqa: E731
    monkeypatch.setattr("imagen_jax.pipeline.stage.StepwiseSampler", of_run)
    used = []
    for steps in (2, 3, 2, 4):
        held(PROMPTS[0], num_steps=steps)
        used.append([len(plan.log_snrs) - 1 for plan, *_ in held.stages[0]._samplers])
    assert used == [[2], [2, 3], [3, 2], [2, 4]]


def test_the_first_stages_paint_alone_and_share_all(cascade, pictures, monkeypatch):
    monkeypatch.setattr(StoredNetwork, "load", None)
    base = cascade.first(1)(PROMPTS, num_images=2, seed=3)
    assert len(base.stages) == 1
    np.testing.assert_array_equal(base.stages[0], pictures.stages[0])
    for count in (0, 3):
        with pytest.raises(UsageError, match=f"of 2 stages has no first {count}"):
            cascade.first(count)


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([], {}, "no prompt"),
        (" ", {}, "not empty"),
        ([3], {}, "A prompt is 3"),
        (PROMPTS, {"num_images": 0}, "from 1"),
        (PROMPTS, {"batch_size": 2.5}, "2.5"),
        (PROMPTS, {"seed": -1}, "-1"),
        (PROMPTS, {"seed": [1, 2, 3]}, "3 seeds"),
        (PROMPTS, {"sampler": "euler"}, "euler"),
        (PROMPTS, {"guidance_scale": float("nan")}, "nan"),
        (PROMPTS, {"num_steps": [4]}, "num_steps has 1 values"),
        (PROMPTS, {"prompt_embeds": [EMBEDDED]}, "prompt_embeds has 1 parts"),
        (PROMPTS, {"prompt_embeds": [EMBEDDED] * 2}, "is of the prompts .'a rocket',.; the call"),
        (PROMPTS, {"size": (7, 12)}, "size is 7x12; the height 7 must be a multiple of 2"),
        (PROMPTS, {"size": 16}, "size is 16; it must be two whole numbers"),
        (PROMPTS, {"size": (16, 16), "aspect": "3:2"}, "give one of them"),
        (PROMPTS, {"aspect": "3:0"}, "aspect is '3:0'"),
        (PROMPTS, {"guidance": 3.0}, "'guidance' is no setting; there are sampler"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(cascade, no_type_checks, prompts, options, said):
    with pytest.raises(UsageError, match=said):
        cascade(prompts, **options)


def test_a_cascade_has_no_gaps_and_its_stages_fit(files):
    with pytest.raises(UsageError, match="no gaps"):
        imagen_jax.load_cascade(base=files["base"], sr1024=files["sr256"])
    with pytest.raises(UsageError, match="the stage before paints 32 pixels"):
        imagen_jax.load_cascade(sr256=files["sr256"], sr1024=files["sr256"])


# Attention over the words.


def test_word_maps_are_shares_of_each_places_attention(cascade, pictures):
    for stage, size in ((0, (16, 16)), (1, (32, 32))):
        maps = cascade.word_maps(pictures, stage=stage, time=0.3)
        assert maps.tokens[0] == maps.tokens[1] != maps.tokens[2] and len(maps.tokens) == 4
        for layer in maps.layers:
            total = layer.sum(-1)
            assert layer.shape[0] == 4 and layer.min() >= 0 and total.max() <= 1 + 1e-5
            # Padding gets nothing, and `</s>` is the last that gets any.
            assert layer[0][:, :, len(maps.tokens[0]) + 1 :].max() == 0
        apple = maps.of("apple")
        assert apple.shape == size and 0 < apple.mean() < 1
        words = sum(maps.of(word) for word in PROMPTS[0].split())
        assert words.max() <= 1 + 1e-5


def test_word_maps_follow_the_prompt_and_not_the_batch(cascade, pictures):
    alone = cascade(PROMPTS[0], num_images=2, seed=3)
    many, one = (cascade.word_maps(p).of("apple") for p in (pictures, alone))
    np.testing.assert_allclose(many, one, atol=1e-4)
    with pytest.raises(UsageError, match="has no word 'pear'; its tokens are"):
        cascade.word_maps(pictures).of("pear")
    with pytest.raises(UsageError, match="stage is 2; this cascade has 2"):
        cascade.word_maps(pictures, stage=2)
    with pytest.raises(UsageError, match="time is 1.5; it must lie between 0 and 1"):
        cascade.word_maps(pictures, time=1.5)


def test_what_a_stream_is_given_may_be_any_iterable(cascade):
    """An array has no truth value, and a generator has neither a length nor parts."""
    embedded = np.array(cascade.embed(PROMPTS), object)
    seeds = ({"seed": seed} for seed in (3, 7))
    first, second = cascade.stream(PROMPTS, chunk=1, prompt_embeds=embedded, each=seeds)
    together = cascade(PROMPTS, prompt_embeds=iter(embedded), each=iter([{"seed": 3}, {"seed": 7}]))
    streamed = np.concatenate([first.stages[0], second.stages[0]]).astype(int)
    assert np.abs(streamed - together.stages[0]).max() <= 1


@pytest.mark.parametrize(
    "painted", [Cascade.__call__, lambda *x, **y: list(Cascade.stream(*x, **y))]
)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt_embeds": ()}, "prompt_embeds has 0 parts; it must have one for each of 2 stages"),
        ({"each": ()}, "each has 0 entries; it must have one for each of 2 subjects"),
        ({"each": [{}] * 3}, "each has 3 entries; it must have one for each of 2 subjects"),
    ],
)
def test_what_is_not_for_all_subjects_is_refused(cascade, painted, options, says):
    with pytest.raises(UsageError, match=says):
        next(iter(painted(cascade, PROMPTS, **options)))
