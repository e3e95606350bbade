"""Paints a job with a cascade, and shows what has come of it meanwhile."""

import base64
import dataclasses
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imagen_jax.pipeline.callbacks import Progress
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.serve.jobs import Cancelled, Job
from imagen_jax.serve.order import Order

_PREVIEW_SIDE = 256
_SECONDS = 0.3
"""Between two previews: whoever looks sees no more."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a job paints.

    Attributes:
        files: `image`, `mask` or the name of what stages are shown -> its file, which lies with
            the job.
        palette: file with the colours of a map of classes among them; "" where there is none.
    """

    order: Order
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    palette: str = ""


class CascadePainter:
    """Paints jobs; what is loaded and compiled for one is there for the next."""

    def __init__(self, cascade: Cascade):
        self._parts = [cascade.first(count + 1) for count in range(len(cascade.stages))]

    def __call__(self, job: Job) -> list[Path]:
        """Paints into the job's directory.

        Raises:
            UsageError: what is asked for is not what the stages take.
            Cancelled: nobody wants it any more.
        """
        order = job.work.order
        given = {name: job.directory / file for name, file in job.work.files.items()}
        edited = {name: given.pop(name) for name in ("image", "mask") if name in given}
        watch = _Watch(job, stages=order.stages)
        return self._parts[order.stages - 1].write(
            job.directory,
            [order.prompt] if order.prompt else (),
            callback=watch,
            progress=False,
            pictures=given,
            palette=job.work.palette or None,
            **order.settings(),
            **edited,
        )


class _Watch:
    """Hears of each step."""

    def __init__(self, job: Job, stages: int):
        self._job, self._stages = job, stages
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        job, now = self._job, time.monotonic()
        if job.unwanted:
            raise Cancelled
        told = {
            "stage": progress.stage,
            "stages": self._stages,
            "step": progress.step + 1,
            "num_steps": progress.num_steps,
        }
        preview = job.preview
        if now - self._last >= _SECONDS or progress.step + 1 == progress.num_steps:
            preview, self._last = _small(progress.estimate), now
        job.tell(progress=told, preview=preview)


def _small(pictures: UInt8[np.ndarray, "batch height width 3"]) -> Sequence[str]:
    """Small JPEG files as addresses that a page shows."""
    return [_data_url(Image.fromarray(picture)) for picture in pictures]


def _data_url(picture: Image.Image) -> str:
    picture.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
