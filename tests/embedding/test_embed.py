"""Embeddings made once: what is stored, what is read, and what is trained on them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sets
import tiny
from array_record.python.array_record_module import ArrayRecordReader

from imagen_jax.data.pipeline import make_dataset
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError
from imagen_jax.networks import build_networks
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.planning import calls
from imagen_jax.planning.estimate import estimate
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.text.cache_format import BFLOAT16, read_metadata
from imagen_jax.training import grids
from imagen_jax.training.loop import run
from imagen_jax.training.objective import diffusion_loss
from imagen_jax.training.text_inputs import load_caption_reader

SHORTENED = "a slice of pizza and a very long sentence that no encoder of eight tokens can hold"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return sets.make_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def embedded(made, tmp_path_factory):
    """Directory and what was printed, in shards of about three captions."""
    out = tmp_path_factory.mktemp("embedded") / "out"
    return out, made.embed(out, "--captions-per-shard", 3)


@pytest.fixture(scope="module")
def cache(embedded):
    return EmbeddingCache(embedded[0])


def with_cache(config, directory):
    return tiny.replace(config, data={"embeddings": str(directory)})


def test_every_caption_has_the_embedding_that_it_has_alone_and_live(made, cache):
    """To the rounding of bfloat16: neither batch nor padding leaves a trace."""
    captions = sorted(sets.DISTINCT)
    read = cache(captions)
    text, mask = read["text"], read["mask"]
    assert text.shape == (len(captions), tiny.LENGTH, tiny.T5.d_model) and text.dtype == BFLOAT16
    lengths = mask.sum(1)
    assert len(set(lengths)) >= 3 and lengths[captions.index(SHORTENED)] == tiny.LENGTH
    for caption, row, one_mask in zip(captions, text, mask, strict=True):
        expected = made.live(caption)
        assert one_mask.tolist() == [i < len(expected) for i in range(tiny.LENGTH)]
        np.testing.assert_allclose(
            row[one_mask].astype(np.float32), expected, rtol=2**-8, atol=2**-10
        )
        assert not row[~one_mask].any()


def test_the_empty_caption_is_embedded_too(made, cache):
    read = cache([""])
    assert read["mask"].sum() == 1
    np.testing.assert_allclose(
        read["text"][0, :1].astype(np.float32), made.live(""), rtol=2**-8, atol=2**-10
    )


def test_each_caption_is_stored_once_and_without_padding(embedded, cache):
    out, _ = embedded
    paths = sorted((out / "00000").glob("*.array_record"))
    records = [record for path in paths for record in ArrayRecordReader(str(path)).read_all()]
    assert len(paths) == 3 and len(records) == len(sets.DISTINCT) + 1
    tokens = int(cache(sorted({*sets.DISTINCT, ""}))["mask"].sum())
    assert sum(map(len, records)) == 20 * len(records) + 2 * tiny.T5.d_model * tokens


def test_it_says_what_it_takes_before_and_what_it_took_after(embedded):
    out, result = embedded
    assert result.code == 0, result.err
    (part,) = read_metadata(out).parts
    tokens = part.sizes.tokens(tiny.LENGTH)
    size = 2 * 16 * tokens + (20 + 20) * 8
    for words in (
        "5 records, 9 captions; to embed are 8, each once", f"  tokens      {tokens},",
        "3 captions are cut to 8", f"{size / 1000:.3g} kB before compression", "in 3 shards",
        "400 million captions of", "T5-XXL", "captions per second", "pictures per second",
        "bytes a caption",
    ):  # fmt: skip
        assert words in result.out, words
    mean = tokens / 8
    assert f"{400e6 * (mean * 4096 * 2 + 40) / 1e12:.1f} TB (padded to 8 tokens, 26.2 TB)" in (
        result.out
    )
    assert list(out.rglob(".*")) == [out / ".lock"] and not (out / "00000" / "lists").exists()


def test_the_losses_are_those_of_the_live_encoder(made, cache):
    """To bfloat16's rounding of the text, which is told apart from that of anything else."""
    config, networks = made.config, build_networks(made.config)
    captions = ["a red apple", "pizza", SHORTENED, "a green dragon, in noto style"]
    pictures = {
        k: x for k, x in tiny.batch(config, 4).items() if k in ("image", "low_res", "weight")
    }
    live = {**pictures, **load_caption_reader(config)(captions)}
    stored = {**pictures, **cache(captions)}
    params = tiny.random_params(config)
    losses = jax.jit(functools.partial(diffusion_loss, config, networks))
    keys = jax.random.split(jax.random.key(1), 4)
    expected = losses(params, {"text_encoder": made.encoder}, live, keys)[0]
    found = losses(params, {}, stored, keys)[0]
    text = made.embed_tokens(live["token_ids"], live["mask"]).astype(BFLOAT16)
    rounded = {**pictures, "text": text, "mask": live["mask"]}
    np.testing.assert_allclose(found, losses(params, {}, rounded, keys)[0], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert np.any(found != expected)
    other = {**stored, **cache(captions[::-1])}
    assert np.abs(losses(params, {}, other, keys)[0] / expected - 1).max() > 5e-3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_bring_embeddings_of_the_very_captions(made, embedded, num_workers):
    """Of each picture the caption that is drawn without a cache."""
    read = [load_caption_reader(config) for config in (made.config, with_cache(
        made.config, embedded[0]))]  # fmt: skip
    config = tiny.replace(
        made.config, data={"embeddings": str(embedded[0]), "num_workers": num_workers}
    )
    source = open_source(made.config.data, 8)
    batches = [
        next(iter(make_dataset(source, c, r, batch_size=8, seed=0, first_picture=24)))
        for c, r in zip((made.config, config), read, strict=True)
    ]
    assert batches[0].keys() - batches[1].keys() == {"token_ids"}
    for name in ("image", "low_res", "mask"):
        np.testing.assert_array_equal(batches[0][name], batches[1][name])
    text = made.embed_tokens(batches[0]["token_ids"], batches[0]["mask"])
    text = np.where(batches[0]["mask"][..., None], text, 0)
    abstract = calls.abstract_batch(config, 8)
    forms = {name: (x.shape, x.dtype) for name, x in batches[1].items()}
    assert forms == {name: (x.shape, x.dtype) for name, x in abstract.items()}
    found = batches[1]["text"]
    assert found.dtype == BFLOAT16
    np.testing.assert_allclose(found.astype(np.float32), text, rtol=2**-8, atol=2**-10)


@pytest.mark.slow
def test_a_run_needs_no_encoder(made, embedded, tmp_path, monkeypatch):
    """Neither for its steps nor for its sheets."""
    prompts = ("pizza", "an apple")
    config = tiny.stage(
        text_encoder=dataclasses.asdict(made.config.text_encoder) | {"t5": tiny.T5},
        data={"source": made.config.data.source, "embeddings": str(embedded[0])},
        training={"num_steps": 1, "sample_every": 1, "sample_prompts": prompts},
    )
    texts = []

    def painter(run):
        def sample(params, numbers, keys, conditions, null):
            texts.append((params.keys(), np.asarray(conditions.text), np.asarray(conditions.mask)))
            return jnp.zeros((len(keys), 16, 16, 3), jnp.uint8), jnp.ones(len(keys), bool)

        return sample

    monkeypatch.setattr(grids, "StepwiseSampler", painter)
    made.stage.rename(moved := made.stage.with_suffix(".moved"))
    try:
        run(config, tmp_path / "run")
    finally:
        moved.rename(made.stage)
    ((networks, text, mask),) = texts
    stored = EmbeddingCache(embedded[0])(prompts)
    assert networks == {"unet"} and mask.tolist() == stored["mask"].tolist()
    np.testing.assert_array_equal(text, stored["text"].astype(np.float32))
    assert not (tmp_path / "run" / "text_encoder.safetensors").exists()


def test_a_planned_step_holds_no_encoder(made, embedded):
    config = with_cache(made.config, embedded[0])
    [step] = calls.training_steps(config, make_mesh(config.mesh))
    assert step.params.keys() == {"unet"}
    stored, live = estimate(config, 8), estimate(made.config, 8)
    assert stored.frozen == 0 < live.frozen
    # One picture a device.
    assert stored.batch == live.batch + tiny.LENGTH * (2 * tiny.T5.d_model - 4)
    encoder = calls.embedding(config, 8, make_mesh(config.mesh))
    assert encoder.params.keys() == {"text_encoder"}


def test_a_caption_without_an_embedding_is_named(cache, embedded):
    with pytest.raises(UsageError) as error:
        cache(["a red apple", "a blue rocket"])
    assert "'a blue rocket' has no embedding" in str(error.value)
    assert f"`python -m imagen_jax embed DATASET {embedded[0]}" in str(error.value)
