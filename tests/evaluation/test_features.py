"""Feature networks: pictures as others take them, each once, in batches of any size."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from feature_networks import INCEPTION, drawn_inception
from golden import inception_weights

from imagen_jax.config import MeshConfig
from imagen_jax.evaluation import features
from imagen_jax.evaluation.features import open_network
from imagen_jax.evaluation.reading import Reading
from imagen_jax.models.clip import CLIP
from imagen_jax.parallel.mesh import make_mesh

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:2])


def some_pictures(count, side=31):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


@pytest.mark.slow
def test_inception_takes_pictures_as_pytorch_fid_does(monkeypatch):
    """The golden is of pytorch-fid's own resizing to 299 pixels."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    params = jax.tree.map(jax.numpy.asarray, drawn_inception())
    monkeypatch.setattr(features, "load_inception", lambda *_: params)
    network = open_network("inception", Path(), mesh, Reading("whole", "bilinear"))
    resized = map(network.reading, inception_weights.pictures("resized"))
    (ours,) = network(resized, 1)
    expected = safetensors.numpy.load_file(INCEPTION / "expected.safetensors")["resized"]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def clip(mesh):
    return open_network("clip", GOLDEN / "clip", mesh, Reading("centre", "bicubic"))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 4, 10])
def test_every_picture_is_read_once_and_in_order(clip, batch_size):
    """Seven pictures; two devices make batches of 2, 4, 4 and 10."""
    inputs = [clip.reading(picture) for picture in some_pictures(7)]
    batches = list(clip(iter(inputs), batch_size))
    assert sum(map(len, batches)) == 7
    alone = np.concatenate([batch for picture in inputs for batch in clip([picture], 1)])
    np.testing.assert_allclose(np.concatenate(batches), alone, rtol=1e-5, atol=1e-5)
    assert alone.shape == (7, clip.width) and alone.dtype == np.float32


def test_no_pictures_make_no_batches(clip):
    assert list(clip([], 4)) == []


@pytest.mark.slow
def test_clip_takes_square_pictures_as_transformers_does(monkeypatch, mesh):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    seen = []
    monkeypatch.setattr(
        CLIP, "embed_pictures", lambda self, x, gather: seen.append(x) or x.reshape(len(x), -1)
    )
    network = open_network("clip", GOLDEN / "clip", mesh, Reading("centre", "bicubic"))
    pictures = some_pictures(2)
    (ours,) = network(map(network.reading, pictures), 2)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size=20)
    theirs = processor(list(pictures), return_tensors="np")["pixel_values"]
    assert seen[0].shape == (2, 20, 20, 3)
    np.testing.assert_allclose(
        ours.reshape(2, 20, 20, 3), theirs.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5
    )


def test_dinov2_takes_pictures_of_224_pixels(mesh):
    network = open_network("dinov2", GOLDEN / "dinov2", mesh, Reading("centre", "bicubic"))
    assert network.reading.name == "centre, bicubic, 224 pixels"
    assert network.width == 32 and len(network.weights) == 64
