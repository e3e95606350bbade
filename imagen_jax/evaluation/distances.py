"""How far two sets of pictures are apart in the judge's features."""

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "pictures features"]


def judge_kernel_distance(x: Features, y: Float[np.ndarray, "others features"]) -> float:
    """The squared maximum mean discrepancy between two sets of features, at least two each.

        k(a, b) = (a.b / d + 1)^3
        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    The estimator is unbiased: of two draws from one distribution it is 0 on average, and so below
    0 half of the time. Binkowski et al. 2018 (Demystifying MMD GANs) take it of an Inception
    network's features; with the judge's it says nothing of what others have measured.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(_among(_kernel(x, x)) + _among(_kernel(y, y)) - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _among(kernel: np.ndarray) -> float:
    """The mean without the diagonal."""
    count = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (count * (count - 1))
