"""How far two sets of pictures are apart in the features of a network.

Which network that is, and how pictures were resized for it, belongs to the name of a figure:
`judge_kernel_distance` is of this package's own judge, the others of published networks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from imagen_jax.errors import UsageError
from imagen_jax.evaluation.moments import Moments, StatedMoments

Features = Float[np.ndarray, "pictures features"]
OtherFeatures = Float[np.ndarray, "others features"]

KID_SUBSETS, KID_SIZE = 100, 1000
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
_ROWS = 1024
"""Of so many features at a time the kernel is taken with all others."""


def frechet_distance(x: Moments | StatedMoments, y: Moments | StatedMoments) -> float:
    """The squared Frechet distance between two normal distributions.

        |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))

    Heusel et al. 2017 (GANs Trained by a Two Time-Scale Update Rule), eq. 6: FID on the features
    of `models.inception`, FD-DINOv2 (Stein et al. 2023) on those of `models.dinov2`. Where
    S_x = A A^T and S_y = B B^T, the eigenvalues of S_x S_y are the squared singular values of
    A^T B, so the trace of its root is their sum.

    Raises:
        UsageError: one side has no more pictures than features, so that its S is singular.
    """
    for moments in (x, y):
        if isinstance(moments, Moments):
            check_frechet(moments.count, moments.width)
    roots = [_root(moments.covariance) for moments in (x, y)]
    trace_of_root = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    traces = np.trace(x.covariance) + np.trace(y.covariance)
    return float(np.square(x.mean - y.mean).sum() + traces - 2 * trace_of_root)


def check_frechet(count: int, width: int) -> None:
    """Raises a UsageError where a Frechet distance means nothing of so few pictures."""
    if count <= width:
        raise UsageError(
            f"A Frechet distance of {width} features takes more than {width} pictures on either "
            f"side, and there are {count}; kernel distances (KID, CMMD) mean something of so few."
        )


def _root(
    covariance: Float[np.ndarray, "features features"],
) -> Float[np.ndarray, "features features"]:
    """A such that A A^T is the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(0))


def kernel_inception_distance(
    x: Features,
    y: OtherFeatures,
    *,
    subsets: int = KID_SUBSETS,
    size: int = KID_SIZE,
    seed: int = 0,
) -> tuple[float, float]:
    """KID, and its standard deviation over subsets.

        k(a, b) = (a.b / d + 1)^3
        mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j), i != j in the first two

    Binkowski et al. 2018 (Demystifying MMD GANs), eq. 3: unbiased, so that it is below 0 as often
    as above where both sets are of one distribution. It is the mean over `subsets` pairs of subsets
    of `size` features each, or of as many as the smaller set has.

    Raises:
        UsageError: one side has fewer than two pictures.
    """
    check_count(min(len(x), len(y)), 2, "KID")
    size, rng = min(size, len(x), len(y)), np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        chosen = [rng.choice(len(z), size, replace=False) for z in (x, y)]
        found.append(_unbiased(x[chosen[0]], y[chosen[1]]))
    return float(np.mean(found)), float(np.std(found))


def _unbiased(x: Features, y: OtherFeatures) -> float:
    among = sum(
        (kernel.sum() - np.trace(kernel)) / (len(z) * (len(z) - 1))
        for z in (x, y)
        for kernel in [_cubic(z, z)]
    )
    return float(among - 2 * _cubic(x, y).mean())


def _cubic(x: Features, y: OtherFeatures) -> Float[np.ndarray, "pictures others"]:
    return (x.astype(np.float64) @ y.T.astype(np.float64) / x.shape[1] + 1) ** 3


def clip_mmd(x: Features, y: OtherFeatures) -> float:
    """CMMD: the squared maximum mean discrepancy between embeddings of CLIP, times 1000.

        k(a, b) = exp(-|a - b|^2 / (2 sigma^2)), sigma = 10
        mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j), over all pairs

    Jayasumana et al. 2023 (Rethinking FID), section 4, and its published code, whose estimator is
    the biased one: i = j counts. Embeddings are made 1 long.

    Raises:
        UsageError: there are no pictures on one side.
    """
    check_count(min(len(x), len(y)), 1, "CMMD")
    x, y = _unit(x), _unit(y)
    # Of 1 - k, which is small, so that no digits are lost.
    far = 2 * _mean_gap(x, y) - _mean_gap(x, x) - _mean_gap(y, y)
    return CMMD_SCALE * far


def _mean_gap(x: Features, y: OtherFeatures) -> float:
    """The mean of 1 - k over all pairs."""
    squares = np.square(y).sum(1)
    total = 0.0
    for part in _parts(x):
        distances = np.square(part).sum(1)[:, None] + squares - 2 * part @ y.T
        total -= np.expm1(-distances / (2 * CMMD_SIGMA**2)).sum()
    return float(total / (len(x) * len(y)))


def clip_score(pictures: Features, texts: Features) -> Float[np.ndarray, " pictures"]:
    """The CLIP score of each picture with its own text: max(100 cos, 0).

    Hessel et al. 2021 (CLIPScore) with the weight 100 that torchmetrics has in the place of 2.5.
    The figure of a set is the mean.

    Args:
        pictures: embeddings by CLIP; so are `texts`, row for row.
    """
    return np.maximum(100 * (_unit(pictures) * _unit(texts)).sum(1), 0)


def _unit(x: Features) -> Features:
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _parts(x: Features) -> Iterator[Float[np.ndarray, "_ features"]]:
    return (x[first : first + _ROWS] for first in range(0, len(x), _ROWS))


def check_count(count: int, least: int, measure: str) -> None:
    """Raises a UsageError where there are too few pictures for a measure."""
    if count < least:
        raise UsageError(
            f"{measure} takes at least {least} pictures on either side, and there are {count}."
        )


def judge_kernel_distance(
    x: Features, y: OtherFeatures, x_prompts: Sequence[int], y_prompts: Sequence[int]
) -> float:
    """The squared maximum mean discrepancy between two sets of features of the judge.

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


def _mean(
    x: Features, y: OtherFeatures, x_prompts: np.ndarray, y_prompts: np.ndarray
) -> np.floating:
    return _cubic(x, y)[x_prompts[:, None] != y_prompts].mean()
