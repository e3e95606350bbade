"""How fast steps go, what share of that is waiting, and what it takes of the chips."""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from imagen_jax.config import StageConfig
from imagen_jax.config.data import Size
from imagen_jax.costs.chips import chip_of_kind
from imagen_jax.costs.model_flops import model_flops
from imagen_jax.networks import Networks, Params
from imagen_jax.parallel.seeds import key_of
from imagen_jax.training.objective import Objective, mean_loss
from imagen_jax.training.step import abstract_batch


def step_flops(
    config: StageConfig,
    networks: Networks,
    objective: Objective,
    params: Params,
    frozen: Params,
    size: Size | None = None,
) -> int:
    """The model's work in one training step over all chips.

    Args:
        params, frozen: may be abstract.
        size: of the pictures, as `abstract_batch` takes it.
    """
    count = config.training.batch_size
    batch = abstract_batch(config, count, size)
    keys = jax.eval_shape(lambda: jax.random.split(key_of(0), count))
    loss = functools.partial(mean_loss, objective, config, networks)
    return model_flops(loss, params, frozen, batch, keys, trained=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What one step does.

    Attributes:
        pictures: of a batch.
        flops: of the model, by (height, width) of the pictures, see `step_flops`.
        chips: that share it.
        kind: what JAX calls these.
    """

    pictures: int
    flops: Callable[[Size], int]
    chips: int
    kind: str

    def rates(self, steps: Mapping[Size, int], seconds: float) -> dict[str, float]:
        """Pictures and work per second; as a share of the chips' peak where that is known.

        Args:
            steps: how many of each size were taken.
            seconds: that they took.
        """
        pictures = sum(steps.values()) / seconds * self.pictures
        done = sum(count * self.flops(size) for size, count in steps.items())
        flops = done / seconds / self.chips
        rates = {
            "pictures_per_second": pictures,
            "pictures_per_second_per_chip": pictures / self.chips,
            "model_flops_per_second_per_chip": flops,
        }
        chip = chip_of_kind(self.kind)
        return rates if chip is None else {**rates, "model_flops_share": flops / chip.flops}


class Stopwatch:
    """Times runs of steps; starts anew at the end of the first one of a size, which compiles.

    A step may end after the next one was started, and so after that has been compiled: then it
    does not count either.

    What is paused (evaluation, pictures, checkpoints) belongs to no step.
    """

    def __init__(self) -> None:
        self._compiled: set[Size] = set()
        self._compiling: Size | None = None
        self._restart()

    @contextlib.contextmanager
    def waiting(self, running: jax.Array) -> Iterator[None]:
        """Waits for data while the step that computes `running` does.

        Data that are there before the step ends nobody waited for; else all of the time counts.
        """
        began = time.monotonic()
        yield
        if running.is_ready():
            self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def step_started(self, size: Size) -> None:
        """`size`: of the step's pictures."""
        if size not in self._compiled:
            self._compiled.add(size)
            self._compiling = size

    def step_ended(self, size: Size) -> None:
        if self._compiling is None:
            self._steps[size] += 1
            return
        self._restart()
        if size == self._compiling:
            self._compiling = None

    def lap(self, work: Work) -> dict[str, float]:
        """Rates since the last lap, and the share of its time that was `waiting`."""
        if not self._steps:
            return {}
        seconds = max(time.monotonic() - self._started - self._paused, 1e-9)
        measured = {**work.rates(self._steps, seconds), "data_wait": self._waited / seconds}
        self._restart()
        return measured

    def _restart(self) -> None:
        self._started = time.monotonic()
        self._steps: collections.Counter[Size] = collections.Counter()
        self._waited = self._paused = 0.0


def memory_use() -> dict[str, int]:
    """Bytes of HBM of the fullest of this process's devices: now, and at most so far.

    Empty where the backend does not say. A CPU has none, whatever it says.
    """
    devices = [device for device in jax.local_devices() if device.platform != "cpu"]
    stats: list[dict[str, Any]] = [device.memory_stats() or {} for device in devices]
    names = {"hbm_bytes": "bytes_in_use", "hbm_peak_bytes": "peak_bytes_in_use"}
    return {
        name: max(of[key] for of in stats)
        for name, key in names.items()
        if stats and all(key in of for of in stats)
    }
