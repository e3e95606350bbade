"""Meshes of devices and slices, and where arrays lie on them."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes


@pytest.mark.parametrize(
    ("shape", "fsdp", "spec"),
    [
        ((3, 3, 512, 1024), 8, P(None, None, None, "fsdp")),
        ((3, 3, 1024, 512), 8, P(None, None, "fsdp", None)),
        ((512, 512), 8, P(None, "fsdp")),
        ((2048, 7), 8, P("fsdp", None)),
        ((2049, 511), 8, P()),
        ((64,), 8, P()),
        ((), 8, P()),
        ((512, 512), 1, P()),
    ],
)
def test_the_largest_divisible_axis_is_sharded_and_small_arrays_are_not(
    monkeypatch, shape, fsdp, spec
):
    monkeypatch.setattr(meshes, "_REPLICATE_BELOW", 2**12)
    assert meshes.parameter_spec(shape, fsdp) == spec


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1)),
        (MeshConfig(spatial=2), (1, 4, 2)),
        (MeshConfig(spatial=8), (1, 1, 8)),
        (MeshConfig(fsdp=2, spatial=2), (2, 2, 2)),
    ],
)
def test_a_mesh_takes_all_devices_once(config, shape):
    mesh = meshes.make_mesh(config)
    assert mesh.axis_names == ("data", "fsdp", "spatial") and mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (MeshConfig(fsdp=3), "mesh.fsdp is 3 and mesh.spatial is 1; .* divide the 8 devices"),
        (MeshConfig(fsdp=16), "mesh.fsdp is 16 .* divide the 8 devices"),
        (MeshConfig(fsdp=4, spatial=4), "mesh.fsdp is 4 and mesh.spatial is 4"),
        (MeshConfig(spatial=3), "^mesh.spatial is 3"),
        (MeshConfig(spatial=16), "^mesh.spatial is 16"),
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_or_exceeds_them_is_refused(config, says):
    with pytest.raises(UsageError, match=says):
        meshes.make_mesh(config)


def slices(count, size):
    """Devices of `count` slices, in an order that mixes them."""
    device = lambda i: mock.Mock(  # noqa: E731
        spec=jax.Device, id=i, slice_index=i % count, platform="cpu", device_kind="cpu",
        process_index=0,
    )  # fmt: skip
    return [device(i) for i in range(count * size)]


@pytest.mark.parametrize(
    ("config", "shape"), [(MeshConfig(), (2, 4, 1)), (MeshConfig(fsdp=2), (4, 2, 1))]
)
def test_only_the_data_axis_crosses_slices(config, shape):
    mesh = meshes.make_mesh(config, slices(2, 4))
    assert mesh.devices.shape == shape
    for row in mesh.devices:
        assert len({device.slice_index for device in row.flat}) == 1


def test_fsdp_does_not_reach_over_slices():
    with pytest.raises(UsageError, match="fsdp is 8 .* divide the 4 devices of a slice"):
        meshes.make_mesh(MeshConfig(fsdp=8), slices(2, 4))


def test_parameters_are_gathered_in_another_dtype_and_their_gradients_keep_theirs():
    """Weights of few bits, so that nothing is rounded on the way back."""
    mesh = meshes.make_mesh(MeshConfig(fsdp=4))
    weights = (np.arange(2**15) % 100).reshape(2, -1).astype(np.float32)
    x = weights + np.float32(0.001)
    params = meshes.place_parameters({"w": x}, meshes.parameter_shardings({"w": x}, mesh))

    def loss(params):
        whole = meshes.gather_parameters(params, mesh=mesh, dtype="bfloat16")["w"]
        return jnp.sum(whole.astype(jnp.float32) * weights), whole

    gradient, whole = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert whole.dtype == jnp.bfloat16 and whole.sharding.is_fully_replicated
    assert gradient["w"].dtype == jnp.float32
    assert gradient["w"].sharding == params["w"].sharding
    np.testing.assert_array_equal(gradient["w"], weights)


def test_the_derivative_of_gathering_is_to_gather():
    mesh = meshes.make_mesh(MeshConfig(fsdp=4))
    x = np.arange(2**15, dtype=np.float32).reshape(2, -1)
    parts = meshes.place_parameters(x, meshes.parameter_shardings(x, mesh))
    gather = lambda x: meshes.gather_parameters(x, mesh=mesh, dtype="bfloat16")  # noqa: E731
    whole, derivative = jax.jit(lambda x: jax.jvp(gather, [x], [-x]))(parts)
    assert derivative.dtype == jnp.bfloat16 and derivative.sharding.is_fully_replicated
    np.testing.assert_array_equal(derivative, -whole)


def test_a_batch_must_divide_over_the_devices_and_a_height_over_its_axis():
    mesh = meshes.make_mesh(MeshConfig(spatial=2))
    with pytest.raises(UsageError, match="6 pictures does not divide over 4 devices"):
        meshes.check_batch_size(6, mesh)
    meshes.check_batch_size(12, mesh)
    with pytest.raises(UsageError, match="15 pixels high does not divide over 2 devices"):
        meshes.check_height(15, mesh)


@pytest.mark.parametrize("spatial", [1, 2])
def test_each_device_has_its_rows_of_the_batch(spatial):
    mesh = meshes.make_mesh(MeshConfig(fsdp=4 // spatial, spatial=spatial))
    batch = tiny.batch(tiny.stage())
    placed = meshes.global_batch(batch, mesh)
    size = 8 // meshes.batch_parts(mesh)
    for name, shape in (("image", (size, 16 // spatial, 16, 3)), ("mask", (size, tiny.LENGTH))):
        assert {shard.data.shape for shard in placed[name].addressable_shards} == {shape}
        np.testing.assert_array_equal(placed[name], batch[name])


class OneOfTwo:
    """A mesh as one of two processes sees it that holds every other device."""

    def __init__(self, mesh):
        self.devices = set(mesh.devices.flat[1::2])

    def __call__(self, sharding, shape):
        places = sharding.devices_indices_map(shape)
        return {device: index for device, index in places.items() if device in self.devices}


def test_a_process_reads_the_rows_that_its_devices_hold(monkeypatch):
    """Wherever they lie: a TPU's order of devices is not that of its hosts."""
    mesh = meshes.make_mesh(MeshConfig())
    held = OneOfTwo(mesh)
    monkeypatch.setattr(
        jax.sharding.NamedSharding, "addressable_devices_indices_map",
        lambda sharding, shape: held(sharding, shape),
    )  # fmt: skip
    assert meshes.local_rows(16, mesh) == [2, 3, 6, 7, 10, 11, 14, 15]
