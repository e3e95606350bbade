"""Pictures between two prompts, or between two seeds."""

import dataclasses
import math

import numpy as np

from imagen_jax.config.data import Size
from imagen_jax.diffusion.samplers import initial_noise
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.given import Noise
from imagen_jax.pipeline.sampling import picture_keys
from imagen_jax.pipeline.subjects import Subjects

_MOST = 1000
"""Pictures; their noise is made at once."""


def shares(count: int) -> list[float]:
    """How far each of `count` pictures is on its way, from 0 to 1."""
    return [number / (count - 1) for number in range(count)]


def interpolated(subjects: Subjects, count: int, num_images: int, *, has_seeds: bool) -> Subjects:
    """One subject for each picture of the way; all of them have the first prompt.

    Args:
        subjects: two prompts, or one between two seeds.

    Raises:
        UsageError: there is nothing to go between, or too little of a way.
    """
    if not isinstance(count, int) or not 2 <= count <= _MOST:
        raise UsageError(f"interpolate is {count!r}; it must be a whole number from 2 to {_MOST}.")
    if len(subjects.prompts) != subjects.count or subjects.count > 2:
        raise UsageError(
            f"interpolate goes between two prompts or two seeds; there are {subjects.count} "
            "subjects."
        )
    if subjects.count == 1 and not has_seeds:
        raise UsageError("interpolate goes between two prompts, or to another seed: to_seed.")
    if num_images != 1:
        raise UsageError(f"num_images is {num_images}; interpolate paints one of each.")
    return dataclasses.replace(subjects, prompts=subjects.prompts[:1] * count)


def noise_between(seed: int, to_seed: int, side: int, size: Size, count: int) -> Noise:
    """What the first stage begins with: cos a + sin b of the two seeds' noise, an arc.

    Args:
        side: that the first stage was trained on.
        size: (height, width) of its pictures.
    """
    ends = (
        np.asarray(initial_noise(picture_keys(x, side, 1), (*size, 3))) for x in (seed, to_seed)
    )
    one, other = (end[0] for end in ends)
    angles = [share * math.pi / 2 for share in shares(count)]
    way = [math.cos(angle) * one + math.sin(angle) * other for angle in angles]
    return np.stack(way).astype(np.float32)
