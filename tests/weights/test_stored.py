"""Tensors read in parts: the right numbers, and no more of them than wanted."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.weights import stored
from imagen_jax.weights.stored import StoredTensor, open_file, place
from imagen_jax.weights.tensors import digest, write_tensors

VALUES = np.random.default_rng(0).normal(size=(48, 40)).astype(np.float32)


class Counter:
    """A stored tensor that counts what is read of it."""

    def __init__(self, transposed):
        self.elements, self.largest = 0, 0
        self.tensor = StoredTensor("somewhere: x", VALUES.shape, "float32", self.read, transposed)
        self.wanted = VALUES.T if transposed else VALUES

    def read(self, index):
        part = VALUES[index]
        self.elements += part.size
        self.largest = max(self.largest, part.size)
        return part


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("index", [np.s_[:, :], np.s_[8:24, :], np.s_[:, 10:30], np.s_[5:6, 3:4]])
def test_a_part_is_read_alone_and_some_rows_at_a_time(monkeypatch, transposed, index):
    monkeypatch.setattr(stored, "_BLOCK", 100)
    counter = Counter(transposed)
    part = counter.tensor.part(index, "float32")
    np.testing.assert_array_equal(part, counter.wanted[index])
    assert part.flags.c_contiguous
    assert counter.elements == part.size
    assert counter.largest <= 100


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_vector_is_read_in_blocks_too(monkeypatch, dtype):
    monkeypatch.setattr(stored, "_BLOCK", 7)
    tensor = StoredTensor("somewhere: x", (48,), "float32", lambda index: VALUES[:, 0][index])
    np.testing.assert_array_equal(tensor.whole(dtype), VALUES[:, 0].astype(dtype))


def test_a_single_number_is_written_and_read_and_its_damage_seen(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": np.array(2.5), "y": VALUES}, "float32", {})
    tensor = open_file(path)[1]["x"]
    assert tensor.shape == () and tensor.whole("bfloat16") == 2.5
    placed = place(tensor, "float32", NamedSharding(make_mesh(MeshConfig()), PartitionSpec()))
    assert placed.shape == () and placed == 2.5
    start = path.read_bytes().index(np.float32(2.5).tobytes())
    with path.open("r+b") as file:
        file.seek(start)
        file.write(np.float32(3.5).tobytes())
    with pytest.raises(UsageError, match="its bytes are not those that were written"):
        open_file(path)[1]["x"].whole("float32")


def test_writing_holds_no_copy_of_a_tensor_and_sees_its_last_number(tmp_path):
    x = np.ones(2**25, jnp.bfloat16)
    tracemalloc.start()
    try:
        write_tensors(tmp_path / "x.safetensors", {"x": x}, "bfloat16", {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes // 4
    x[-1] = np.nan
    with pytest.raises(UsageError, match="^x holds numbers that are not finite"):
        write_tensors(tmp_path / "bad.safetensors", {"x": x}, "bfloat16", {})
    assert not (tmp_path / "bad.safetensors").exists()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("spec", [(), ("fsdp",), (None, "fsdp"), ("fsdp", "data")])
def test_every_part_is_read_once_for_all_devices_that_hold_it(transposed, spec):
    counter = Counter(transposed)
    mesh = make_mesh(MeshConfig(fsdp=4))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "spatial": 1}
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    x = place(counter.tensor, "float32", sharding)
    assert isinstance(x, jax.Array) and x.sharding == sharding
    np.testing.assert_array_equal(x, counter.wanted)
    assert counter.elements == VALUES.size


def test_a_digest_depends_on_names_shapes_and_values():
    params = {"a": {"x": np.zeros((2, 3), np.float32)}, "b": np.ones(2, np.float32)}
    same = {"b": np.ones(2, np.float32), "a": {"x": np.zeros((2, 3), np.float32)}}
    others = [
        {**params, "b": np.float32([1, 1.5])},
        {**params, "a": {"x": np.zeros((3, 2), np.float32)}},
        {"a": {"y": params["a"]["x"]}, "b": params["b"]},
    ]
    assert digest(params) == digest(same)
    assert len({digest(tree) for tree in (params, *others)}) == 4
