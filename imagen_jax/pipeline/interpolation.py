"""Pictures between two prompts, or between two seeds."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from imagen_jax.diffusion.noise import KeysBetween
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.arguments import checked_seed
from imagen_jax.pipeline.sampling import picture_keys
from imagen_jax.pipeline.subjects import Subjects

_MOST = 1000
"""Pictures; all of them are in one strip."""


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


@dataclasses.dataclass(frozen=True)
class SeedsBetween:
    """Pictures on the way from the first one of a seed to the first one of another.

    Attributes:
        shares: how far each picture is on its way, from 0 to 1.
    """

    seed: int
    to_seed: int
    shares: tuple[float, ...]

    def of(self, pictures: Sequence[int]) -> "SeedsBetween":
        """Some of the pictures."""
        return dataclasses.replace(self, shares=tuple(self.shares[i] for i in pictures))

    def keys(self, stream: int) -> KeysBetween:
        """What a stage draws by: all of its noise, at first and later, goes along an arc.

        So the ends are the pictures of the two seeds in every stage, and what is between them
        has noise like any other picture's.
        """
        rows = np.zeros(len(self.shares), int)
        one, other = (picture_keys(x, stream, 1)[rows] for x in (self.seed, self.to_seed))
        # A cosine of a right angle would not be 0.
        ways = [(math.sin((1 - x) * math.pi / 2), math.sin(x * math.pi / 2)) for x in self.shares]
        return KeysBetween(one, other, np.array(ways, np.float32))


Seed = int | Sequence[int] | SeedsBetween
"""Of all pictures, of each subject or of each picture; or two that pictures lie between."""


def seeds_between(
    seed: int | Sequence[int], to_seed: Any, count: int | None, init_noise: Any
) -> SeedsBetween | None:
    """The two seeds of a call that goes from one to another; None where it does not.

    Args:
        count: of the pictures between two prompts or seeds.
        init_noise: what else the first stage should begin with.

    Raises:
        UsageError: `to_seed` is no seed, or stands beside what it does not belong to.
    """
    if to_seed is None:
        return None
    if init_noise is not None:
        raise UsageError("There is init_noise and to_seed; give one of them.")
    to_seed = checked_seed(to_seed, 1, 1)
    if count is None or not isinstance(seed, int):
        raise UsageError(f"to_seed is {to_seed}; it belongs to interpolate and one seed.")
    return SeedsBetween(seed, to_seed, tuple(shares(count)))
