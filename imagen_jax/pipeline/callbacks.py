"""What a callback hears while a cascade paints."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from imagen_jax.pipeline.painting import SampledStage


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a callback hears after each denoising step.

    Attributes:
        stage: index of the stage, from the base up.
        step: how many the stage took before.
        num_steps: that the stage takes.
        estimate: the present estimate of the batch's pictures, uint8.
        pictures: their numbers in the call.
    """

    stage: int
    step: int
    num_steps: int
    estimate: UInt8[np.ndarray, "batch height width 3"]
    pictures: tuple[int, ...] = ()


Callback = Callable[[Progress], object]


class Listener:
    """Tells a callback of each step's estimate, as `painting.paint` hears of it.

    Attributes:
        stage: index of the stage that paints.
    """

    def __init__(self, callback: Callback, steps: Sequence[SampledStage], rows: Sequence[int]):
        """
        Args:
            steps: of the part of a call that is painted.
            rows: numbers that the part's pictures have in the call.
        """
        self._callback, self._steps, self._rows = callback, steps, rows
        self.stage = 0

    def __call__(
        self,
        number: int,
        estimate: UInt8[np.ndarray, "batch height width 3"],
        pictures: np.ndarray,
    ) -> None:
        num_steps = self._steps[self.stage].num_steps
        rows = tuple(self._rows[picture] for picture in pictures)
        self._callback(Progress(self.stage, number, num_steps, estimate, rows))


def both(one: Callback, other: Callback | None) -> Callback:
    """A callback that tells two; the other one may be missing."""
    if other is None:
        return one

    def tell(progress: Progress) -> None:
        one(progress)
        other(progress)

    return tell
