"""Files of arrays are read as NumPy wrote them, or refused whatever their header says."""

import io

import numpy as np
import pytest

from imagen_jax.storage.npy import read_npy

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 4, 3)


def saved(array) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def with_header(text: str) -> bytes:
    header = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(99)


def test_an_array_comes_back():
    np.testing.assert_array_equal(read_npy(saved(ARRAY)), ARRAY)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 3), ",
        "'abc",
        "(" * 9000,
        "{[]: 1}",
        "1_" * 4000,
        "  a\n b\n  c",
        "\0",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4, 3)}",
    ],
)
def test_a_header_that_is_none_is_a_value_error(header):
    with pytest.raises(ValueError, match=r"\w"):
        read_npy(with_header(header))


def test_any_damaged_byte_gives_an_array_or_one_of_few_errors():
    whole = saved(ARRAY)
    for place in range(128):  # The header, to its last byte.
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            try:
                read_npy(bytes(damaged))
            except (ValueError, EOFError, MemoryError):
                continue


def test_objects_are_not_read():
    with pytest.raises(ValueError, match="allow_pickle"):
        read_npy(saved(np.array([None])))
