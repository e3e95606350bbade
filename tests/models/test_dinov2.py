"""DINOv2 against PyTorch's Dinov2Model, and the weights of its cubic interpolation."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from imagen_jax.config import MeshConfig
from imagen_jax.config.encoders import DINOv2Config
from imagen_jax.models.dinov2 import DINOv2, cubic_weights
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.weights.dinov2_names import load_dinov2

GOLDEN = Path(__file__).parents[1] / "golden" / "dinov2"


def abstract(config):
    return nnx.eval_shape(lambda: DINOv2(config, rngs=nnx.Rngs(0)))


def run(config, params, pictures):
    graph = nnx.graphdef(abstract(config))
    return np.asarray(jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, pictures))


@pytest.mark.parametrize("size", ["own", "small", "large"])
def test_equals_the_golden_of_pytorch(size):
    config, params = load_dinov2(GOLDEN, make_mesh(MeshConfig()))
    expected = safetensors.numpy.load_file(GOLDEN / "expected.safetensors")
    features = run(config, params, expected[f"{size}.pictures"])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected[f"{size}.features"], rtol=1e-5, atol=1e-5)


def test_equals_pytorch_on_other_sizes(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    model = transformers.Dinov2Model(transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=42, patch_size=14,
    )).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        pictures = torch.randn(2, 3, 70, 30)
        expected = model(pictures).pooler_output.numpy()
    model.save_pretrained(tmp_path)
    config, params = load_dinov2(tmp_path, make_mesh(MeshConfig()))
    features = run(config, params, pictures.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(37, 16), (5, 9), (4, 4), (1, 3)])
def test_cubic_weights_are_an_interpolation(sizes):
    weights = cubic_weights(*sizes)
    assert weights.shape == sizes[::-1]
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    if sizes[0] == sizes[1]:
        np.testing.assert_allclose(weights, np.eye(sizes[0]), atol=1e-6)


def test_a_line_between_the_ends_stays_a_line_when_it_is_halved():
    """The new samples lie in the middle between two old ones, whose kernel is symmetric."""
    weights = cubic_weights(20, 10)
    np.testing.assert_allclose(
        (weights @ np.arange(20.0))[1:-1], np.arange(10)[1:-1] * 2 + 0.5, atol=1e-5
    )


@pytest.mark.slow
def test_parameter_count_of_vit_l():
    count = sum(x.size for x in jax.tree.leaves(nnx.state(abstract(DINOv2Config()))))
    assert count / 1e6 == pytest.approx(304.4, rel=4e-4)
