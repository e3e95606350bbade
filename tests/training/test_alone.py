"""A super-resolution stage with T5 of Hugging Face: all that it does, it does without others."""

import json
import shutil

import jax
import numpy as np
import pytest
import runs
import safetensors.numpy
import tiny
from scripts import ROOT, call, sample, verbs

from imagen_jax.config import MeshConfig, T5Config
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.stored.stages import load_weights
from imagen_jax.training.loop import run
from imagen_jax.weights.t5_names import load_t5

GOLDEN = ROOT / "tests" / "golden" / "t5"
T5 = T5Config(vocab_size=2048, d_model=32, num_layers=2, num_heads=3, d_kv=8, d_ff=40)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def t5(directory):
    """The golden encoder, with as many embeddings as the captions' tokenizer has pieces."""
    shutil.copytree(GOLDEN, directory / "t5")
    tensors = safetensors.numpy.load_file(GOLDEN / "model.safetensors")
    rng = np.random.default_rng(0)
    tensors["shared.weight"] = rng.normal(size=(T5.vocab_size, T5.d_model)).astype(np.float32)
    safetensors.numpy.save_file(tensors, directory / "t5" / "model.safetensors")
    config = json.loads((GOLDEN / "config.json").read_text()) | {"vocab_size": T5.vocab_size}
    (directory / "t5" / "config.json").write_text(json.dumps(config))
    return directory / "t5"


@pytest.fixture(scope="module")
def config(t5, directory):
    return tiny.super_resolution(
        text_encoder={"t5": T5, "train": False, "source": str(t5)},
        data=tiny.folder(directory / "data"),
        sampling={"num_steps": 1},
    )


@pytest.fixture(scope="module")
def workdir(config, directory):
    """A run of a step, gone on with for another one when T5 has moved."""
    workdir, moved = directory / "run", directory / "moved"
    run(tiny.replace(config, training={"num_steps": 1}), workdir)
    shutil.copytree(config.text_encoder.source, moved)
    config = tiny.replace(
        config, training={"num_steps": 2}, text_encoder={"source": str(moved)}
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"--allow-change text_encoder\.source"):
        run(config, workdir)
    run(config, workdir, allow_change=["text_encoder.source"])
    return workdir


@pytest.mark.slow
def test_it_trains_and_goes_on(workdir, config):
    state = runs.saved(config, workdir)
    assert state.step == 2 and set(state.params) == {"unet"}
    assert not (workdir / "text_encoder.safetensors").exists()  # T5 is large and stays.


@pytest.mark.slow
def test_it_is_loaded_and_exported_with_its_encoder(workdir, config, directory):
    encoder = load_t5(directory / "moved", T5, make_mesh(MeshConfig()))
    file = directory / "stage.safetensors"
    assert call(verbs, "export", workdir, file, "--dtype", "float32").code == 0
    ema = runs.saved(config, workdir).ema["unet"]
    for origin in (workdir, file):
        params = load_weights(origin).params
        jax.tree.map(np.testing.assert_array_equal, params["text_encoder"], encoder)
        jax.tree.map(np.testing.assert_array_equal, params["unet"], ema)
    assert load_weights(file).config.text_encoder.source == ""


@pytest.mark.slow
def test_it_starts_another_run(workdir, config, directory):
    """Without its encoder, which that run reads itself."""
    config = tiny.replace(config, training={"num_steps": 1}, optimizer={"learning_rate": 1e-9})
    run(config, directory / "next", workdir, "raw")
    ours, theirs = (runs.saved(config, directory / name) for name in ("next", "run"))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-8), ours.params, theirs.params
    )
    assert any(
        np.abs(x - y).max() > 1e-6
        for x, y in zip(jax.tree.leaves(theirs.params), jax.tree.leaves(theirs.ema), strict=True)
    )


@pytest.mark.slow
def test_it_needs_a_base_only_to_paint(workdir):
    result = call(sample, "a red apple", "--base", workdir, "--sr256", "none")
    assert result.code == 2 and "takes 8-pixel pictures, but it comes first" in result.err
