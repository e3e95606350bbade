"""Prompts through the text encoders of a cascade: each one once, alone, and in batches."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict
from scripts import ROOT

from imagen_jax.config import AdapterConfig, MeshConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.memory import bytes_a_device, bytes_of_all
from imagen_jax.pipeline.prompts import PromptReader, TextEncoders
from imagen_jax.stored.adapters import StoredAdapter, adapted
from imagen_jax.stored.stages import StoredNetwork, open_stage
from imagen_jax.weights.stage_file import save_stage_file

GOLDEN = ROOT / "tests" / "golden" / "deepfloyd_if" / "stage_1"
PROMPTS = ("a red apple", "a cat face", "rocket")
SR = tiny.super_resolution(low_resolution=16, resolution=32)
FROZEN = {"train": False}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Names -> files of stages, each with an encoder inside; `same` has that of `base`."""
    directory = tmp_path_factory.mktemp("stages")
    base = tiny.random_params(tiny.stage())
    stages = {
        "base": (tiny.stage(), base),
        "same": (tiny.replace(SR, text_encoder=FROZEN), {**tiny.random_params(SR, 1), **{
            "text_encoder": base["text_encoder"]}}),
        "other": (SR, tiny.random_params(SR, 1)),
        "shorter": (tiny.replace(SR, text_encoder={"max_length": 5}), {**tiny.random_params(SR, 1),
            "text_encoder": base["text_encoder"]}),
    }  # fmt: skip
    for name, (config, params) in stages.items():
        save_stage_file(directory / f"{name}.safetensors", config, params, "float32")
    return {name: directory / f"{name}.safetensors" for name in stages}


@pytest.fixture
def counted(monkeypatch):
    """Names of the networks that were loaded, and how often prompts were embedded."""
    counts = {"loaded": [], "embedded": 0}
    load, embed = StoredNetwork.load, PromptReader.__call__

    def count_load(network, mesh):
        counts["loaded"].append(network.name)
        return load(network, mesh)

    def count_embed(*arguments):
        counts["embedded"] += 1
        return embed(*arguments)

    monkeypatch.setattr(StoredNetwork, "load", count_load)
    monkeypatch.setattr(PromptReader, "__call__", count_embed)
    return counts


def embed(stages, texts=PROMPTS, batch_size=4):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return TextEncoders(stages, mesh)(texts, batch_size)


@pytest.mark.slow
def test_equal_encoders_embed_once_and_others_for_themselves(exported, counted):
    """The same file, the same weights in another file, other weights, another length."""
    names = ("base", "base", "same", "other", "shorter")
    base, again, same, other, shorter = embed([open_stage(exported[name]) for name in names])
    assert base is again is same
    assert counted == {"loaded": ["text_encoder"] * 4, "embedded": 3}
    assert base.encoder_sha256 == shorter.encoder_sha256 != other.encoder_sha256
    assert np.abs(base.text - other.text).max() > 0.1
    assert shorter.text.shape == (3, 5, tiny.T5.d_model)


def test_stages_that_name_one_t5_load_it_once(tmp_path, counted):
    t5 = tiny.replace(tiny.T5, d_model=32, num_heads=4, d_ff=40)
    source = {"t5": t5, "train": False, "source": str(GOLDEN / "text_encoder")}
    stages = []
    for config in (tiny.stage(text_encoder=source), tiny.replace(SR, text_encoder=source)):
        path = tmp_path / f"{config.resolution}.safetensors"
        save_stage_file(path, config, tiny.random_params(config), "float32")
        stages.append(open_stage(path))
    one, two = embed(stages)
    assert one is two
    assert counted == {"loaded": ["text_encoder"], "embedded": 1}


def test_batches_change_nothing(exported):
    """Batches of two, the last with a row to spare, on one device and divided over eight."""
    stage = open_stage(exported["base"])
    (alone,), (few,) = embed([stage], PROMPTS[2:]), embed([stage], batch_size=2)
    (many,) = TextEncoders([stage], make_mesh(MeshConfig()))(PROMPTS, 2)
    np.testing.assert_array_equal(few.mask, many.mask)
    np.testing.assert_allclose(few.text, many.text, rtol=0, atol=1e-5)
    np.testing.assert_allclose(few.text[2:], alone.text, rtol=0, atol=1e-5)
    assert few.null is None and few.text.dtype == np.float32


def test_the_empty_caption_is_a_row_of_its_own(tmp_path):
    config = tiny.stage(text_encoder={"null": "empty"})
    save_stage_file(tmp_path / "x.safetensors", config, tiny.random_params(config), "float32")
    (text,) = embed([open_stage(tmp_path / "x.safetensors")], batch_size=2)
    assert text.text.shape == (3, tiny.LENGTH, tiny.T5.d_model) and text.mask.shape == (3, 8)
    embeddings, mask = text.null
    assert embeddings.shape == (1, tiny.LENGTH, tiny.T5.d_model)
    np.testing.assert_array_equal(mask, [[True] + [False] * 7])


def test_an_adapter_of_one_stages_encoder_is_not_read_by_another(tmp_path):
    """Both name one T5; each weight of an adapter is an encoder of its own."""
    t5 = tiny.replace(tiny.T5, d_model=32, num_heads=4, d_ff=40)
    config = tiny.stage(
        text_encoder={"t5": t5, "train": False, "source": str(GOLDEN / "text_encoder")}
    )
    path = tmp_path / "base.safetensors"
    save_stage_file(path, config, tiny.random_params(config), "float32")
    plain = open_stage(path)
    kernel = next(p for p in flatten_dict(plain.text_encoder.abstract) if p[-1] == "kernel")
    inputs, outputs = flatten_dict(plain.text_encoder.abstract)[kernel].shape
    factors = {"down": np.ones((inputs, 1), np.float32), "up": np.ones((1, outputs), np.float32)}
    factors = {("text_encoder", *kernel, name): value for name, value in factors.items()}
    adapter = StoredAdapter(
        tmp_path / "x", AdapterConfig(rank=1), {"text_encoder": plain.text_encoder.fingerprint()},
        {name: value.shape for name, value in factors.items()}, lambda: unflatten_dict(factors),
    )  # fmt: skip
    stages = [plain] + [
        dataclasses.replace(plain, text_encoder=adapted(plain.text_encoder, adapter, weight))
        for weight in (1.0, 0.5, 1.0)
    ]
    none, one, half, again = embed(stages)
    assert one is again
    for left, right in ((none, one), (none, half), (one, half)):
        assert np.abs(left.text - right.text).max() > 1e-3
        assert left.encoder_sha256 != right.encoder_sha256


def test_a_shared_encoder_is_in_memory_once(exported):
    base, shorter = (open_stage(exported[name]) for name in ("base", "shorter"))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    alone, encoder = bytes_of_all([base], mesh), bytes_a_device(base.text_encoder.abstract, mesh)
    assert bytes_of_all([base, base], mesh) == 2 * alone - encoder
    assert bytes_of_all([base, shorter], mesh) == alone + bytes_of_all([shorter], mesh)
