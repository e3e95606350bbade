"""Columns beside the data are read as they were written, or not at all."""

import numpy as np
import pytest
from safetensors.numpy import save

from imagen_jax.data.columns import open_columns, write_columns

COLUMNS = {"sizes": np.arange(5), "names": np.arange(10).reshape(5, 2)}


def test_columns_come_back(tmp_path):
    write_columns(tmp_path / "x", COLUMNS, {"of": "this"})
    kept = open_columns(tmp_path / "x")
    assert len(kept) == 5 and kept.about == {"of": "this"}
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(kept.column(name), column)


@pytest.mark.parametrize("described", ["", "[", "[]", "{}", "NaN", "[" * 100_000, '{"about": ['])
def test_what_describes_nothing_is_no_columns(described, tmp_path):
    (tmp_path / "x").write_bytes(save(COLUMNS, {"described": described}))
    assert open_columns(tmp_path / "x") is None
