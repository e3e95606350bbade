"""What a callback hears while a cascade paints."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from imagen_jax.diffusion.pixels import to_pixels
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


_LOG = logging.getLogger("jax._src.debugging")
"""Where JAX writes what a callback raised, which comes through here besides."""
Callback = Callable[[Progress], object]


class Listener:
    """Tells a callback of each step's estimate, as `painting.paint` hears of it.

    Attributes:
        stage: index of the stage that paints.
    """

    def __init__(
        self,
        callback: Callback | None,
        steps: Sequence[SampledStage],
        rows: Sequence[int],
        *,
        alone: bool = True,
    ):
        """
        Args:
            steps: of the part of a call that is painted.
            rows: numbers that the part's pictures have in the call.
            alone: whether one device paints. Several wait for each other, and must end a stage.
        """
        self._callback, self._steps, self._rows, self._alone = callback, steps, rows, alone
        self._error: Exception | None = None
        self.stage = 0

    def __call__(self, index: jax.Array, x0: jax.Array, pictures: np.ndarray) -> None:
        if self._error is not None:
            return
        estimate = np.asarray(to_pixels(x0))
        num_steps = self._steps[self.stage].num_steps
        numbers = tuple(self._rows[number] for number in pictures)
        try:
            self._callback(Progress(self.stage, int(index), num_steps, estimate, numbers))
        except Exception as error:  # Whatever the caller's function raises is the caller's.
            self._error = error
            if self._alone:
                raise

    @contextlib.contextmanager
    def of_stage(self) -> Iterator[None]:
        """Listens to one stage; what the callback raised meanwhile comes through as it was."""
        _LOG.addFilter(self._is_news)
        try:
            yield
        except jax.errors.JaxRuntimeError:
            if self._error is None:
                raise
        finally:
            _LOG.removeFilter(self._is_news)
        if self._error is not None:
            raise self._error
        self.stage += 1

    def _is_news(self, record: logging.LogRecord) -> bool:
        return self._error is None or (record.exc_info or (None, None))[1] is not self._error


def both(one: Callback, other: Callback | None) -> Callback:
    """A callback that tells two; the other one may be missing."""
    if other is None:
        return one

    def tell(progress: Progress) -> None:
        one(progress)
        other(progress)

    return tell
