"""FID's Inception-v3 against pytorch-fid's, and where it differs from torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from feature_networks import INCEPTION, drawn_inception
from flax import nnx
from golden import inception_weights

from imagen_jax.models import inception
from imagen_jax.models.inception import FEATURES, Inception


@pytest.fixture(scope="module")
def features_of():
    graph = nnx.graphdef(nnx.eval_shape(lambda: Inception(rngs=nnx.Rngs(0))))
    params = drawn_inception()
    call = jax.jit(lambda params, pictures: nnx.merge(graph, params)(pictures))
    return lambda pictures: np.asarray(call(params, pictures))


def test_equals_the_golden_of_pytorch_fid(features_of):
    features = features_of(inception_weights.pictures("alone") / np.float32(127.5) - 1)
    expected = safetensors.numpy.load_file(INCEPTION / "expected.safetensors")["alone"]
    assert features.dtype == np.float32 and features.shape == (2, FEATURES)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_averages_do_not_count_what_lies_beyond_the_border():
    ones = jnp.ones((1, 4, 5, 2))
    np.testing.assert_array_equal(inception._average(ones), ones)


def test_the_last_block_pools_by_the_maximum_and_the_others_by_the_mean():
    pools = {name: mixed.pool for name, mixed in inception._MIXED.items()}
    assert [name for name, pool in pools.items() if pool == "maximum"] == ["Mixed_7c"]
    assert [name for name, pool in pools.items() if pool == "halve"] == ["Mixed_6a", "Mixed_7a"]
