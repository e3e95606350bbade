"""Prompts that were embedded before, for sampling without a text encoder."""

import json

import numpy as np
import pytest
import sets
import tiny
from scripts import ROOT, call, paint_nothing, refused, sample, verbs

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.prompts import TextEncoders, read_prompts
from imagen_jax.stored.encoders import keep_account_of_embeddings
from imagen_jax.stored.stages import StoredNetwork, open_stage
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.weights.deepfloyd_stage import convert_deepfloyd_if
from imagen_jax.weights.stage_file import save_stage_file

GOLDEN = ROOT / "tests" / "golden" / "deepfloyd_if"
PROMPTS = ("a red apple", "two green dragons")
STEPS = ("--steps", 2, "--sr256", "none")


def embed(directory, stage, *flags):
    file = directory / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    result = call(verbs, "embed", f"prompts:{file}", directory / "out", "--stage", stage, *flags)
    assert result.code == 0, result.err
    return directory / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return sets.make_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def embedded(made, tmp_path_factory):
    return embed(tmp_path_factory.mktemp("embedded"), made.stage)


def assert_alike(stored, live):
    """Within the rounding of bfloat16 where a token is real."""
    np.testing.assert_array_equal(stored.mask, live.mask)
    rows = live.mask
    np.testing.assert_allclose(stored.text[rows], live.text[rows], rtol=2**-8, atol=2**-10)
    assert stored.encoder_sha256 == live.encoder_sha256


def test_they_are_what_the_stage_would_embed(made, embedded):
    stage = open_stage(made.stage)
    (live,) = TextEncoders([stage], make_mesh(MeshConfig()))(PROMPTS, 4)
    (stored,) = read_prompts([stage], PROMPTS, [EmbeddingCache(embedded)])
    assert_alike(stored, live)
    assert stored.null is None and stored.text.dtype == np.float32


@pytest.mark.slow
def test_deepfloyd_if_gets_the_padding_and_the_empty_caption_that_it_reads(tmp_path):
    path = tmp_path / "IF-I.safetensors"
    convert_deepfloyd_if(GOLDEN / "stage_1", path, "float32", GOLDEN / "stage_1")
    cache = EmbeddingCache(embed(tmp_path, path))
    stage = open_stage(path)
    (live,) = TextEncoders([stage], make_mesh(MeshConfig()))(PROMPTS, 4)
    (stored,) = read_prompts([stage], PROMPTS, [cache])
    assert_alike(stored, live)
    np.testing.assert_allclose(stored.text, live.text, rtol=2**-8, atol=2**-9)
    for own, other in zip(stored.null, live.null, strict=True):
        np.testing.assert_allclose(own, other, rtol=2**-8, atol=2**-9)
    assert not live.mask.all() and np.abs(live.text[~live.mask]).max() > 0.1


@pytest.mark.slow
def test_sample_needs_no_encoder(made, embedded, tmp_path, monkeypatch):
    """Not even one that can be found."""
    config = tiny.stage(text_encoder={"train": False, "source": "nowhere"})
    path, out = tmp_path / "base.safetensors", tmp_path / "out"
    save_stage_file(path, config, {"unet": tiny.random_params(config)["unet"]}, "float32")
    refused(call(sample, *PROMPTS, "--base", path, "--out", out, *STEPS), "nowhere")
    loaded, load = [], StoredNetwork.load
    monkeypatch.setattr(StoredNetwork, "load", lambda self, mesh: (
        loaded.append(self.name), load(self, mesh))[1])  # fmt: skip
    flags = ("--base", path, "--out", out, "--embeddings", embedded, *STEPS)
    result = call(sample, *PROMPTS, *flags)
    assert result.code == 0, result.err
    assert loaded == ["unet"]
    manifest = json.loads((out / "manifest.json").read_text())
    sha256 = EmbeddingCache(embedded).metadata.encoder_sha256
    assert manifest["stages"][0]["text_encoder_sha256"] == sha256


@pytest.mark.slow
def test_prompts_that_steer_are_read_where_the_others_are(made, embedded, tmp_path):
    """Without the encoder, which need not be there; a second prompt may end an interpolation."""
    config = tiny.stage(text_encoder={"train": False, "source": "nowhere"})
    path = tmp_path / "base.safetensors"
    save_stage_file(path, config, {"unet": tiny.random_params(config)["unet"]}, "float32")
    flags = ("--base", path, "--embeddings", embedded, *STEPS)
    for number, steering in enumerate((
        (PROMPTS[0], "--negative-prompt", PROMPTS[1], "--guidance", 2),
        (PROMPTS[0], "--positive-prompt", PROMPTS[1]),
        (*PROMPTS, "--interpolate", 3),
        (PROMPTS[0], "--interpolate", 3, "--to-seed", 2),
    )):  # fmt: skip
        result = call(sample, *steering, *flags, "--out", tmp_path / str(number))
        assert result.code == 0, result.err
    refused(
        call(sample, PROMPTS[0], *flags, "--negative-prompt", "x", "--out", tmp_path / "x"),
        "The prompt 'x' has no embedding",
    )


def test_spaces_round_a_prompt_do_not_matter(made, embedded, tmp_path, monkeypatch):
    paint_nothing(monkeypatch)
    flags = ("--base", made.stage, "--out", tmp_path, *STEPS, "--embeddings", embedded)
    result = call(sample, " a red apple ", "two \t green dragons\n", *flags)
    assert result.code == 0, result.err
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [picture["prompt"] for picture in manifest["pictures"]] == list(PROMPTS)


def test_mistakes_are_one_sentence(made, embedded, tmp_path, monkeypatch):
    paint_nothing(monkeypatch)
    flags = ("--base", made.stage, "--out", tmp_path / "out", *STEPS)
    refused(
        call(sample, "a red apple", "a blue rocket", *flags, "--embeddings", embedded),
        "The prompt 'a blue rocket' has no embedding",
        f"python -m imagen_jax embed prompts:FILE {embedded} --stage {made.stage}",
    )
    refused(call(sample, "a", *flags, "--embeddings", tmp_path), "holds no finished text embed")
    shorter = tiny.stage(text_encoder={"max_length": 6})
    other, another = tmp_path / "shorter.safetensors", tmp_path / "another.safetensors"
    save_stage_file(other, shorter, tiny.random_params(shorter), "float32")
    save_stage_file(another, tiny.stage(), tiny.random_params(tiny.stage()), "float32")
    flags = ("--embeddings", embedded, *flags[2:])
    refused(
        call(sample, "a red apple", "--base", other, *flags),
        f"{embedded} was embedded with text_encoder.max_length 8; this stage has 6",
    )
    refused(
        call(sample, "a red apple", "--base", another, *flags),
        f"was embedded by another text encoder ({made.stage}) than that of {another}",
    )
    params = {**tiny.random_params(tiny.stage()), "text_encoder": made.encoder}
    save_stage_file(another, tiny.stage(), params, "float32", tokenizer="of another")
    refused(
        call(sample, "a red apple", "--base", another, *flags),
        f"was embedded with another tokenizer ('captions') than {another} was trained with",
    )
    refused(
        call(sample, "a red apple", "--base", made.stage, *STEPS, "--embeddings", "a,b,c"),
        "--embeddings has 3 values",
    )
    refused(
        call(sample, "--compile-only", "--topology", "v5e:1x1", "--embeddings", embedded),
        "leave --embeddings out",
    )
    assert not (tmp_path / "out").exists()


def test_a_stage_keeps_to_the_encoder_that_made_what_it_was_trained_on(
    made, embedded, tmp_path, monkeypatch
):
    """Here a training directory whose encoder's source has changed since."""
    from imagen_jax.stored import stages

    metadata = EmbeddingCache(embedded).metadata
    keep_account_of_embeddings(metadata, tmp_path)
    stages.open_frozen_encoder(made.config, tmp_path)
    changed = tmp_path / "changed.safetensors"
    save_stage_file(changed, tiny.stage(), tiny.random_params(tiny.stage()), "float32")
    config = tiny.replace(made.config, text_encoder={"source": str(changed)})
    with pytest.raises(
        UsageError, match=f"trained on embeddings of another text encoder than {changed}"
    ):
        stages.open_frozen_encoder(config, tmp_path)
