"""Low-rank adapters of kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.config import AdapterConfig
from imagen_jax.errors import UsageError
from imagen_jax.models import low_rank

CONFIG = AdapterConfig(rank=2, targets=("net.*",))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def params():
    return {
        "net": {
            "dense": {"kernel": normal(0, 5, 7), "bias": normal(1, 7)},
            "conv": {"kernel": normal(2, 3, 3, 4, 6)},
        },
        "other": {"kernel": normal(3, 5, 5)},
    }


def with_random_up(adapter):
    """What a fresh adapter is after training: its second factor is not zero."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: normal(len(str(path)), *x.shape) if path[-1].key == "up" else x, adapter
    )


def test_a_fresh_adapter_adds_nothing(params):
    adapter = low_rank.init(CONFIG, params, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, low_rank.merge(params, adapter, 1.0), params)
    assert all(np.any(x["kernel"]["down"]) for x in adapter["net"].values())


def test_it_holds_two_factors_of_each_kernel_that_was_chosen(params):
    adapter = low_rank.init(CONFIG, params, jax.random.key(0))
    assert jax.tree.map(jnp.shape, adapter) == {
        "net": {
            "dense": {"kernel": {"down": (5, 2), "up": (2, 7)}},
            "conv": {"kernel": {"down": (3, 3, 4, 2), "up": (2, 6)}},
        }
    }


def test_a_merged_matrix_multiplies_as_both_paths_do(params):
    adapter = with_random_up(low_rank.init(CONFIG, params, jax.random.key(0)))
    x, kernel = normal(9, 3, 5), params["net"]["dense"]["kernel"]
    down, up = (np.asarray(adapter["net"]["dense"]["kernel"][name]) for name in ("down", "up"))
    merged = low_rank.merge(params, adapter, 0.5)["net"]["dense"]
    np.testing.assert_allclose(
        x @ np.asarray(merged["kernel"]), x @ kernel + 0.5 * (x @ down) @ up, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(merged["bias"], params["net"]["dense"]["bias"])


def test_a_merged_convolution_is_one_to_the_rank_and_one_of_1x1(params):
    adapter = with_random_up(low_rank.init(CONFIG, params, jax.random.key(0)))
    x, kernel = normal(9, 1, 8, 8, 4), params["net"]["conv"]["kernel"]
    factors = adapter["net"]["conv"]["kernel"]

    def conv(x, kernel):
        form = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=form, precision="highest"
        )

    both = conv(x, kernel) + 2.0 * conv(conv(x, factors["down"]), factors["up"][None, None])
    merged = low_rank.merge(params, adapter, 2.0)["net"]["conv"]["kernel"]
    np.testing.assert_allclose(conv(x, merged), both, rtol=1e-4, atol=1e-4)


def test_a_kernel_stays_in_its_dtype(params):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    adapter = low_rank.init(CONFIG, params, jax.random.key(0))
    assert {x.dtype.name for x in jax.tree.leaves(low_rank.merge(params, adapter, 1.0))} == {
        "bfloat16"
    }


def test_a_pattern_that_fits_no_kernel_is_named(params):
    with pytest.raises(UsageError, match=r"adapter\.targets has 'net\.\*\.bias'"):
        low_rank.targets(params, ("net.*.bias",))
