"""Operations in numpy, written from their equations, that several test files compare with."""

import numpy as np


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attend(queries, keys, values, mask):
    """softmax(q k^T / sqrt(d)) v for each picture and head, masked keys left out of the sums."""
    batch, count, heads, width = queries.shape
    out = np.zeros((batch, count, heads, width))
    for b, h in np.ndindex(batch, heads):
        real = mask[b]
        logits = queries[b, :, h] @ keys[b, real, h].T / np.sqrt(width)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[b, :, h] = weights @ values[b, real, h]
    return out.reshape(batch, count, heads * width)


def group_norm(x, groups, epsilon=1e-5):
    """(x - mean) / sqrt(variance + epsilon), over the positions and channels of each group."""
    grouped = x.astype(np.float64).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = grouped.var((1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
