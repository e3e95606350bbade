"""How far two sets of pictures are apart in the judge's features."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "pictures features"]
OtherFeatures = Float[np.ndarray, "others features"]


def judge_kernel_distance(
    x: Features, y: OtherFeatures, x_prompts: Sequence[int], y_prompts: Sequence[int]
) -> float:
    """The squared maximum mean discrepancy between two sets of features.

        k(a, b) = (a.b / d + 1)^3
        mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j)

    each over the pairs i, j of different prompts: pictures of one prompt resemble each other in
    whichever set they are. So the estimator is unbiased: where the pictures of each prompt come
    from one distribution in both sets it is 0 on average, and so below 0 half of the time.
    Binkowski et al. 2018 (Demystifying MMD GANs) take it of an Inception network's features, of
    which each is a draw of its own; this one says nothing beside what others have measured.

    Args:
        x_prompts: the number of the prompt of each of `x`; at least two differ, as of `y_prompts`.
    """
    x_prompts, y_prompts = np.asarray(x_prompts), np.asarray(y_prompts)
    among = _mean(x, x, x_prompts, x_prompts) + _mean(y, y, y_prompts, y_prompts)
    return float(among - 2 * _mean(x, y, x_prompts, y_prompts))


def _mean(x: np.ndarray, y: np.ndarray, x_prompts: np.ndarray, y_prompts: np.ndarray) -> float:
    kernel = (x.astype(np.float64) @ y.T.astype(np.float64) / x.shape[1] + 1) ** 3
    return kernel[x_prompts[:, None] != y_prompts].mean()
