"""Files of adapters: what was written, and names that nobody's adapter has."""

import jax
import numpy as np
import pytest

from imagen_jax.config import AdapterConfig
from imagen_jax.errors import UsageError
from imagen_jax.weights.adapter_file import open_adapter_file, save_adapter_file

CONFIG = AdapterConfig(rank=2, base="somewhere")
PAIR = {"down": np.ones((3, 2), np.float32), "up": np.ones((2, 4), np.float32)}


def saved(directory, params):
    path = directory / "x.safetensors"
    save_adapter_file(path, CONFIG, {"unet": "abc"}, params, "float32", "ema")
    return open_adapter_file(path)


def test_what_was_written_comes_back_but_for_where_the_stage_lay(tmp_path):
    params = {"unet": {"blocks": {0: {"kernel": PAIR}}}}
    file = saved(tmp_path, params)
    assert (file.config, file.fits) == (AdapterConfig(rank=2), {"unet": "abc"})
    jax.tree.map(np.testing.assert_array_equal, file.load(), params)


@pytest.mark.parametrize("name", ["²", "9" * 5000, "٣", "-1", "1_0"])
def test_what_is_no_plain_number_stays_a_name(name, tmp_path):
    file = saved(tmp_path, {"unet": {name: PAIR}})
    assert set(file.tensors) == {("unet", name, "down"), ("unet", name, "up")}


@pytest.mark.parametrize("network", ["other", "unets", "adapter"])
def test_factors_of_no_network_are_refused(network, tmp_path):
    with pytest.raises(UsageError, match=f"holds '{network}.kernel.down', which is no factor"):
        saved(tmp_path, {"unet": {"kernel": PAIR}, network: {"kernel": PAIR}})
