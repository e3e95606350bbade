"""The script that trains a small CLIP for the study of text encoders."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from scripts import tool

from imagen_jax.config import MeshConfig, StageConfig
from imagen_jax.config.python_file import find_config, read_config_file
from imagen_jax.models.clip import CLIP
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.text.clip_tokenizer import load_clip_tokenizer
from imagen_jax.weights.clip_names import load_clip, read_clip_config


@pytest.fixture(scope="module")
def trainer():
    return tool("train_clip")


@pytest.fixture(scope="module")
def config() -> StageConfig:
    """The study's, with a tower that is smaller."""
    stage = read_config_file(find_config("emoji_study_32_clip"))
    tower = dataclasses.replace(
        stage.text_encoder.clip, width=24, num_layers=2, num_heads=3, hidden=40, vocab_size=600
    )
    return dataclasses.replace(
        stage, text_encoder=dataclasses.replace(stage.text_encoder, clip=tower)
    )


def test_what_is_written_is_a_clip_of_hugging_face(trainer, config, tmp_path):
    trainer.write_config(config, tmp_path)
    sizes = read_clip_config(tmp_path)
    assert sizes.text == config.text_encoder.clip and sizes.vision.side == config.resolution
    network = CLIP(sizes, rngs=nnx.Rngs(0))
    trainer.write_weights(network, tmp_path)
    _, params = load_clip(tmp_path, make_mesh(MeshConfig(), jax.devices()[:1]))
    expected = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), expected)
    jax.tree.map(np.testing.assert_array_equal, params, rounded)


@pytest.mark.slow
def test_the_vocabulary_has_the_size_and_the_end_of_the_tower(trainer, config, tmp_path):
    trainer.write_vocabulary(600, tmp_path)
    tokenizer = load_clip_tokenizer(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.end_id) == (600, config.text_encoder.clip.end_id)
    ids = tokenizer(["a red apple"], 24)[0][0]
    assert tokenizer.decode(ids.tolist()).split() == ["a", "red", "apple"]


@pytest.mark.slow
def test_pictures_come_nearest_to_their_own_captions(trainer, config, tmp_path):
    """Of a batch that is learned by heart."""
    trainer.write_config(config, tmp_path)
    network = CLIP(read_clip_config(tmp_path), rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, optax.adam(3e-3), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 600, (6, 24)).astype(np.int32)
    ids[:, 0], ids[:, 5] = 0, 1
    batch = {
        "image": rng.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8),
        "token_ids": ids,
        "mask": np.broadcast_to(np.arange(24) < 6, ids.shape),
    }
    losses = [float(trainer.train_step(network, optimizer, batch)) for _ in range(30)]
    assert losses[-1] < losses[0] / 4
    assert np.argmax(trainer.similarities(network, batch), 1).tolist() == [*range(6)]
