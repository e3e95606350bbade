"""Arrays in NumPy's format that may be anyone's. No JAX here."""

import io
import tokenize

import numpy as np

from imagen_jax.errors import reason


def read_npy(data: bytes) -> np.ndarray:
    """The array in a .npy file, which holds no objects.

    Raises:
        ValueError, EOFError: the file is damaged, or of another format.
        MemoryError: its header names a size beyond all memory.
    """
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    # NumPy reads the header as Python, and lets most of its errors through.
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError) as error:
        raise ValueError(f"its header is damaged: {reason(error)}") from error
