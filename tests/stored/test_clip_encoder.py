"""CLIP's text tower as a stage's text encoder: read, trained beside, sampled with."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny
from feature_networks import write_clip_vocabulary
from scripts import call, verbs

import imagen_jax
from imagen_jax.config import MeshConfig, json_form
from imagen_jax.errors import UsageError
from imagen_jax.networks import build_networks
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.prompts import TextEncoders
from imagen_jax.stored.encoders import load_stage_tokenizer
from imagen_jax.stored.stages import load_frozen_encoder, open_stage
from imagen_jax.training.loop import run
from imagen_jax.training.text_inputs import load_caption_reader
from imagen_jax.weights.clip_names import read_clip_text_config
from imagen_jax.weights.stage_file import save_stage_file

GOLDEN = Path(__file__).parents[1] / "golden" / "clip"
SIZES = read_clip_text_config(GOLDEN)
LENGTH = SIZES.max_length


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The golden's weights with a vocabulary of its sizes."""
    directory = tmp_path_factory.mktemp("clip") / "clip"
    shutil.copytree(GOLDEN, directory)
    write_clip_vocabulary(directory)
    return directory


def stage(directory, **changes):
    text = {
        "clip": SIZES, "tokenizer": str(directory), "source": str(directory), "train": False,
        "max_length": LENGTH,
    }  # fmt: skip
    return tiny.stage(**{"text_encoder": text, "sampling": {"num_steps": 1}, **changes})


@pytest.mark.parametrize("layer", ["penultimate", "last"])
def test_embeddings_are_those_of_the_layer(directory, layer):
    config = tiny.replace(stage(directory), text_encoder={"clip_layer": layer})
    params = load_frozen_encoder(config, None, make_mesh(MeshConfig(), jax.devices()[:1]))
    expected = safetensors.numpy.load_file(GOLDEN / "expected.safetensors")
    embed, mask = jax.jit(build_networks(config).embed), expected["mask"]
    states = np.asarray(embed({"text_encoder": params}, expected["token_ids"], mask))
    np.testing.assert_allclose(states[mask], expected[layer][mask], rtol=1e-5, atol=1e-5)
    assert config.inputs.text_width == SIZES.width


def test_captions_stand_between_both_ends(directory):
    config = stage(directory)
    tokenizer, read = load_stage_tokenizer(config), load_caption_reader(config)
    batch = read(["a red apple", " "])
    begin, end = SIZES.vocab_size - 2, SIZES.end_id
    first, blank = batch["token_ids"].tolist()
    assert first[0] == begin and first[4] == end and batch["mask"].sum(1).tolist() == [5, 2]
    assert blank[:2] == [begin, end] and tokenizer.decode(first[:5]).strip() == "a red apple"


@pytest.fixture(scope="module")
def trained(directory, tmp_path_factory):
    """A run of two steps beside the frozen tower."""
    root = tmp_path_factory.mktemp("trained")
    config = stage(directory, data=tiny.folder(root / "data"), training={"num_steps": 2})
    run(config, root / "w")
    return root


@pytest.mark.slow
def test_a_stage_is_trained_beside_it_and_paints(trained):
    (picture,) = imagen_jax.load_cascade(trained / "w")("a red apple").images
    assert picture.size == (16, 16)


@pytest.mark.slow
def test_embeddings_made_once_are_the_encoders_own(directory, trained):
    (trained / "p.txt").write_text("a red apple\nzoo")
    result = call(
        verbs, "embed", f"prompts:{trained / 'p.txt'}", trained / "e", "--stage", trained / "w"
    )
    assert result.code == 0, result.err
    config = stage(directory, data={"embeddings": str(trained / "e")})
    stored = load_caption_reader(config)(["a red apple", "zoo"])
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    (live,) = TextEncoders([open_stage(trained / "w")], mesh)(["a red apple", "zoo"], 2)
    np.testing.assert_array_equal(stored["mask"], live.mask)
    rows = live.mask
    np.testing.assert_allclose(
        stored["text"].astype(np.float32)[rows], live.text[rows], rtol=2**-8, atol=2**-10
    )
    last = tiny.replace(config, text_encoder={"clip_layer": "last"})
    with pytest.raises(UsageError, match="text_encoder.clip_layer 'penultimate'; .* has 'last'"):
        load_caption_reader(last)


def test_a_config_with_clip_comes_back_from_json_and_one_without_says_nothing_of_it(directory):
    config = stage(directory)
    assert json_form.from_json(json_form.to_json(config), "x") == config
    plain = json_form.to_json(tiny.stage())
    older = plain.replace('"clip": null,', "").replace('"clip_layer": "penultimate",', "")
    assert older != plain and json_form.from_json(older, "x") == tiny.stage()


def test_what_does_not_fit_is_refused(directory, tmp_path):
    for changes, says in (
        ({"train": True, "source": ""}, "CLIP is not trained here"),
        ({"max_length": LENGTH + 1}, f"positions end at {LENGTH}"),
    ):
        with pytest.raises(UsageError, match=says):
            tiny.replace(stage(directory), text_encoder=changes)
    other = dataclasses.replace(SIZES, end_id=3)
    with pytest.raises(UsageError, match=r"clip.end_id is 3; .* ends texts with 59"):
        load_stage_tokenizer(tiny.replace(stage(directory), text_encoder={"clip": other}))
    wide = dataclasses.replace(SIZES, width=48)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with pytest.raises(UsageError, match="width"):
        load_frozen_encoder(tiny.replace(stage(directory), text_encoder={"clip": wide}), None, mesh)
    with pytest.raises(UsageError, match="neither tokenizer.json nor vocab.json"):
        load_stage_tokenizer(
            tiny.replace(stage(directory), text_encoder={"tokenizer": str(tmp_path)})
        )


def test_a_stage_file_finds_it_by_its_source(directory, tmp_path):
    config, path = stage(directory), tmp_path / "stage.safetensors"
    params = tiny.random_params(config)
    save_stage_file(path, config, params, "float32")
    assert open_stage(path).text_encoder.origin == directory
