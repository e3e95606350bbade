"""Reading and converting FID's Inception-v3: what is accepted, and what is said of the rest."""

from pathlib import Path

import jax
import numpy as np
import pytest
from feature_networks import INCEPTION
from feature_networks import INCEPTION_SHAPES as SHAPES
from golden import inception_weights

from imagen_jax.cli import verbs
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.weights import inception_names as names
from imagen_jax.weights.stored import StoredTensor, open_file

PUBLISHED = Path("published.safetensors")


def stored(name, value):
    dtype = "int64" if name.endswith("num_batches_tracked") else "float32"
    return StoredTensor(f"{PUBLISHED}: {name}", value.shape, dtype, lambda index: value[index])


@pytest.fixture(scope="module")
def tensors():
    """Those of the published file, under its names; a file would take 95 MB."""
    return {name: inception_weights.weights(name, tuple(shape)) for name, shape in SHAPES.items()}


@pytest.fixture
def publish(tensors, monkeypatch):
    """A function that puts tensors, some of them changed, where `PUBLISHED` is read."""

    def open_some(path, changed):
        held = {name: stored(name, x) for name, x in changed.items()}
        return ({}, held) if path == PUBLISHED else open_file(path)

    def publish(**changes):
        changed = {n: x for n, x in {**tensors, **changes}.items() if x is not None}
        monkeypatch.setattr(names, "open_file", lambda path: open_some(path, changed))

    return publish


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


def test_every_tensor_is_read_or_left_out():
    left = {n for n in SHAPES if n.startswith("fc.") or n.endswith("num_batches_tracked")}
    assert set(names.inception_names()) == set(SHAPES) - left
    assert len(left) == 94 + 2


@pytest.mark.slow
def test_a_converted_file_is_read_like_the_published_one(publish, tensors, mesh, tmp_path):
    publish()
    out = tmp_path / "fid.safetensors"
    verbs.Convert("inception", PUBLISHED, out).run()
    params = names.load_inception(PUBLISHED, mesh)
    jax.tree.map(np.testing.assert_array_equal, names.load_inception(out, mesh), params)
    kernel = params["Mixed_6b"]["branch7x7_2"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, tensors["Mixed_6b.branch7x7_2.conv.weight"].T)
    out.unlink()  # 87 MB.


def test_a_file_of_pytorch_is_read_by_pytorch(publish, tensors, mesh, tmp_path):
    torch = pytest.importorskip("torch")
    publish()
    path = tmp_path / "pt_inception.pth"
    state = {name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)  # As the published one is.
    expected = names.load_inception(PUBLISHED, mesh)
    jax.tree.map(np.testing.assert_array_equal, names.load_inception(path, mesh), expected)
    path.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fc.weight": np.zeros((1000, 2048), np.float32)}, "tells 1000 classes apart; .* 1008"),
        ({"Mixed_7c.branch_pool.bn.bias": None}, r"1 tensors are missing \(Mixed_7c.branch_pool"),
        ({"Mixed_8a.conv.weight": np.zeros(3, np.float32)}, "1 tensors are left over"),
        ({"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 5, 5), np.float32)}, "has shape"),
        ({"Conv2d_1a_3x3.bn.bias": np.full(32, np.nan, np.float32)}, "are not finite"),
    ],
)
def test_another_network_is_refused_and_nothing_is_written(publish, tmp_path, change, said):
    publish(**change)
    with pytest.raises(UsageError, match=said):
        verbs.Convert("inception", PUBLISHED, tmp_path / "out.safetensors").run()
    assert not list(tmp_path.iterdir())


def test_a_clip_is_refused(mesh):
    with pytest.raises(UsageError, match="tensors are missing .* and .* are left over"):
        names.load_inception(INCEPTION.with_name("clip") / "model.safetensors", mesh)


def test_a_text_encoder_is_not_for_it(tmp_path):
    convert = verbs.Convert(
        "inception", PUBLISHED, tmp_path / "x.safetensors", text_encoder=tmp_path
    )
    with pytest.raises(UsageError, match="--text-encoder is .*; it is for deepfloyd-if only"):
        convert.run()
