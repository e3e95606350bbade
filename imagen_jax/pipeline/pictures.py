"""What a cascade gives back: the pictures of every stage, and how they were made."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imagen_jax.conditions import Conditions
from imagen_jax.pipeline.painting import Painted, SampledStage
from imagen_jax.pipeline.request import Request
from imagen_jax.pipeline.results import Results, contact_sheet, described
from imagen_jax.pipeline.subjects import StageInputs


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of some prompts; those of one prompt stand together.

    A notebook shows the grid by itself.

    Attributes:
        prompts: in the order of the pictures; where there are none, what stands in their place,
            such as "class 3".
        num_images: pictures of each prompt.
        steps: the stages with the settings that they sampled with.
    """

    prompts: tuple[str, ...]
    num_images: int
    steps: Sequence[SampledStage]
    _painted: Sequence[Painted]
    _inputs: Sequence[StageInputs]
    _settings: dict[str, Any]
    _low_res: UInt8[np.ndarray, "height width 3"] | None = None

    @classmethod
    def of(cls, request: Request, painted: Sequence[Painted]) -> "Pictures":
        """What the stages made of a call."""
        return cls(
            request.subjects.names,
            request.num_images,
            request.steps,
            painted,
            request.inputs,
            request.account,
            request.low_res,
        )

    @property
    def images(self) -> list[Image.Image]:
        """The last stage's pictures."""
        return [Image.fromarray(picture) for picture in self.stages[-1]]

    @property
    def stages(self) -> list[UInt8[np.ndarray, "pictures height width 3"]]:
        """Every stage's pictures, from the base up."""
        return [painted.pictures for painted in self._painted]

    @property
    def account(self) -> list[dict[str, Any]]:
        """How each stage painted: its name, its weights' digests and its settings."""
        pairs = zip(self.steps, self._inputs, self._painted, strict=True)
        return [described(s, inputs) | {"unet_sha256": p.unet_sha256} for s, inputs, p in pairs]

    def conditions(self, stage: int, rows: np.ndarray) -> Conditions:
        """What a stage was told of these pictures."""
        low_res = None if self._low_res is None else self._low_res[None].repeat(len(rows), 0)
        low_res = self.stages[stage - 1][rows] if stage else low_res
        return self._inputs[stage].rows(rows // self.num_images, low_res)

    def grid(self) -> Image.Image:
        """The last stage's pictures on one sheet, each above its prompt."""
        return contact_sheet(self.stages[-1], self.prompts, self.num_images)

    def save(self, directory: str | Path) -> list[Path]:
        """Writes what `sample.py` writes: every stage's pictures, a sheet and a manifest.

        Returns:
            The files of the last stage's pictures.

        Raises:
            UsageError: a file cannot be written.
        """
        results = Results(Path(directory), self.prompts, self._settings, self.steps, self._inputs)
        for painted in self._painted:
            results.begin(painted.unet_sha256)
            results.keep(range(len(painted.pictures)), painted.pictures)
        return results.finish(self.stages[-1])

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.grid().save(png, "PNG")
        return png.getvalue()
