"""Reading DINOv2 of Hugging Face: what is accepted, and what is said of the rest."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from imagen_jax.config import MeshConfig
from imagen_jax.config.encoders import DINOv2Config
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.weights.dinov2_names import dinov2_names, load_dinov2, read_dinov2_config

GOLDEN = Path(__file__).parents[1] / "golden" / "dinov2"
WEIGHTS = "model.safetensors"
CONFIG = DINOv2Config(width=32, num_layers=2, num_heads=4, hidden=64, side=28, patch=4)


@pytest.fixture
def directory(tmp_path):
    for name in ("config.json", WEIGHTS):
        shutil.copy(GOLDEN / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


def rewrite(directory, change):
    tensors = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, directory / WEIGHTS)


def test_sizes_come_from_the_config():
    assert read_dinov2_config(GOLDEN) == CONFIG


def test_every_tensor_but_the_mask_token_is_named_once():
    names = dinov2_names(CONFIG)
    stored = set(safetensors.numpy.load_file(GOLDEN / WEIGHTS))
    assert set(names) == stored - {"embeddings.mask_token"}
    assert len(set(names.values())) == len(names)


def test_the_mask_token_need_not_be_there(directory, mesh):
    rewrite(directory, lambda tensors: tensors.pop("embeddings.mask_token"))
    jax.tree.map(
        np.testing.assert_array_equal, load_dinov2(directory, mesh), load_dinov2(GOLDEN, mesh)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "dinov2_with_registers"}, "model_type 'dinov2_with_registers'; DINOv2 has"),
        ({"use_swiglu_ffn": True}, "use_swiglu_ffn True; DINOv2 has False"),
        ({"mlp_ratio": "4"}, "mlp_ratio '4'; it must be a positive number"),
        ({"mlp_ratio": -1}, "mlp_ratio -1; it must be a positive number"),
        ({"image_size": [28, 28]}, "image_size .*; it must be an integer"),
        ({"num_hidden_layers": 3}, "tensors are missing"),
        ({"num_hidden_layers": 1}, "tensors are left over"),
        ({"image_size": 32}, r"has shape \(1, 50, 32\); its config says \(1, 65, 32\)"),
    ],
)
def test_another_network_is_refused(directory, mesh, change, said):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=said):
        load_dinov2(directory, mesh)


def test_a_clip_is_refused(mesh):
    with pytest.raises(UsageError, match="model_type 'clip'; DINOv2 has 'dinov2'"):
        load_dinov2(GOLDEN.with_name("clip"), mesh)
