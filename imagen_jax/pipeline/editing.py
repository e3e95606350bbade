"""An edit of a picture, carried through the stages: each edits it at its own size."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy  # Its ndimage takes half a second to load; it loads when it is used.
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from imagen_jax.config import StageConfig
from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import Inpainting
from imagen_jax.config.data import Size
from imagen_jax.config.rules import (
    require_at_most,
    require_choice,
    require_fraction,
    require_positive,
)
from imagen_jax.diffusion import edits
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.extending import extended
from imagen_jax.pipeline.given import Mask, fit, fit_mask, read_mask, read_picture

_STRENGTH = 0.7
"""Of a picture without a mask, as diffusers has it; of one with a mask it is 1."""
_RESAMPLINGS = 5
"""Of the base; super-resolution stages see the whole picture in their low-resolution one."""
_MOST_RESAMPLINGS = 100
"""RePaint's authors try up to 20; every step of all is listed before the first one is taken."""
_JUMPS = 25
"""Going back, a run goes back this share of its steps: 10 of RePaint's 250."""
_FEATHER = 64
"""Pictures' shorter sides by the width of the feather."""
_BIAS, _SMOOTHED = 8, 16
"""The same of the one that takes a stage's bias away, and of the square in which that is taken."""


@dataclasses.dataclass(frozen=True)
class EditSettings(Checked):
    """How a stage edits; what is None follows from the picture and the stage.

    Attributes:
        strength: 0 leaves the picture as it is, and 1 forgets what is repainted.
        inpainting: how the part that stays enters.
        resamplings: how often `repaint` goes each part of the way, at most 100 times.
    """

    strength: int | float | None = None
    inpainting: Inpainting | None = None
    resamplings: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {name for name, value in dataclasses.asdict(self).items() if value is not None}
        for name, kind in (("strength", int | float), ("resamplings", int)):
            value = getattr(self, name)
            if name in given and (not isinstance(value, kind) or isinstance(value, bool)):
                raise UsageError(f"{name} is {value!r}; it must be a number.")
        require_fraction(self, *given & {"strength"})
        require_positive(self, *given & {"resamplings"})
        require_at_most(self, _MOST_RESAMPLINGS, resamplings=self.resamplings or 1)
        if self.inpainting is not None:
            require_choice(self, inpainting=Inpainting)
        if self.inpainting == "clean" and (self.resamplings or 1) > 1:
            raise UsageError(
                f"resamplings is {self.resamplings} and inpainting is 'clean'; only 'repaint' "
                "goes back."
            )


EDIT_SETTINGS = tuple(field.name for field in dataclasses.fields(EditSettings))


@dataclasses.dataclass(frozen=True, eq=False)
class StageEdit:
    """What one stage edits.

    Attributes:
        picture: as large as what it paints.
        repaint: None for all of it.
        course: of the steps.
        coarse: the picture as small as what the stage enlarges, where it begins with the colours
            of that; None where it begins with the picture itself.
    """

    picture: UInt8[np.ndarray, "height width 3"]
    repaint: Mask | None
    course: edits.Course
    settings: EditSettings
    coarse: UInt8[np.ndarray, "_ _ 3"] | None = None

    def source(self, low_res: UInt8[np.ndarray, "batch _ _ 3"] | None = None) -> edits.Source:
        """What a batch begins with, as pixels, and where it is repainted.

        Args:
            low_res: what the stage before painted. What this differs from the picture in is added:
                so details are the picture's and colours those of the edit.
        """
        repaint = None if self.repaint is None else self.repaint[:, :, None]
        if self.coarse is None or low_res is None:
            return edits.Source(self.picture[None], repaint)
        change = _enlarged(low_res.astype(np.float32) - self.coarse, self.picture.shape[:2])
        changed = (self.picture + change).round().clip(0, 255).astype(np.uint8)
        return edits.Source(
            changed if repaint is None else np.where(repaint, changed, self.picture), repaint
        )

    def put_back(
        self, painted: UInt8[np.ndarray, "batch height width 3"]
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Pictures in which all that stays is the picture's own pixels.

        What the known pixels differ from the painted ones in their places is added to what is
        repainted, less with every pixel, so that the colours meet at the border: their mean over
        some of the border far into it, for a stage that paints all of it too bright or too dark,
        and what is left of the nearest pixel's a little way.
        """
        if self.repaint is None:
            return painted
        distance, nearest = scipy.ndimage.distance_transform_edt(self.repaint, return_indices=True)
        side, result = min(self.repaint.shape), painted.astype(np.float32)
        mean = _mean_around(self.picture - result, ~self.repaint, 1 + side // _SMOOTHED)
        result += _share(distance, side / _BIAS) * mean[:, nearest[0], nearest[1]]
        rest = self.picture - result
        result += _share(distance, side / _FEATHER) * rest[:, nearest[0], nearest[1]]
        return result.round().clip(0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """What a user wants to be edited.

    Attributes:
        picture: upright, in sRGB.
        mask: where it is repainted; None for everywhere.
        said: what a manifest says of it.
    """

    picture: Image.Image
    mask: Mask | None = None
    said: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> Size:
        """(height, width) of the picture."""
        return self.picture.height, self.picture.width

    def of_stage(
        self, config: StageConfig, num_steps: int, settings: EditSettings, size: Size
    ) -> StageEdit | None:
        """What a stage edits that paints `size`; None where it paints as without a picture."""
        repaint = None if self.mask is None else fit_mask(self.mask, size)
        settings = self._filled(settings, config, masked=repaint is not None)
        if repaint is None and settings.strength == 1:
            return None
        first = edits.first_step(num_steps, settings.strength)
        visits = edits.visits(
            first,
            num_steps,
            jump_length=max(1, num_steps // _JUMPS),
            resamplings=settings.resamplings,
        )
        course = edits.Course(first, visits, settings.inpainting)
        coarse = None
        if first and config.low_resolution is not None and not _is_chain(config):
            coarse = fit(self.picture, (size[0] // config.upscale, size[1] // config.upscale))
        return StageEdit(fit(self.picture, size), repaint, course, settings, coarse)

    def _filled(self, settings: EditSettings, config: StageConfig, *, masked: bool) -> EditSettings:
        """The settings where those of the picture and the stage are put for None."""
        inpainting = settings.inpainting or ("clean" if _is_chain(config) else "repaint")
        goes_back = inpainting == "repaint" and config.low_resolution is None
        strength = settings.strength
        if strength is None:
            strength = _STRENGTH if self.mask is None else 1.0
        resamplings = settings.resamplings or (_RESAMPLINGS if goes_back else 1)
        return EditSettings(float(strength), inpainting, resamplings if masked else 1)


def edit_of(image: Any, mask: Any = None, extend: Mapping[str, int] | None = None) -> Edit | None:
    """What a user wants to be edited; None without an image.

    Args:
        image: a file, a PIL image or a uint8 array. Where no size is asked for it decides that too.
        mask: as large; white is repainted, and black stays to the pixel. Also bool.
        extend: of the sides left, right, top and bottom, how many pixels of the image's own are
            painted beyond it.

    Raises:
        UsageError: they cannot be read or do not fit each other.
    """
    if image is None:
        for name, given in (("a mask", mask), ("something to extend", extend)):
            if given is not None:
                raise UsageError(f"There is {name}, but no image; give the image that it is of.")
        return None
    picture = read_picture(image)
    size = (picture.height, picture.width)
    said = {"image": _digest(np.asarray(picture), size)}
    repaint = None if mask is None else read_mask(mask, size)
    if repaint is not None:
        said["mask"] = _digest(repaint, size)
    if extend is not None:
        picture, repaint = extended(picture, repaint, extend)
        said["extend"] = dict(extend)
    return Edit(picture, repaint, said)


def _is_chain(config: StageConfig) -> bool:
    """Whether it is of DeepFloyd IF, which edits as diffusers does."""
    return config.diffusion.schedule == "cosine_chain"


def _enlarged(x: Float32[np.ndarray, "batch _ _ 3"], size: Size) -> Float32[np.ndarray, "..."]:
    """Enlarged to `size` (height, width) by a bicubic filter."""
    planes = np.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3])
    large = [Image.fromarray(p).resize(size[::-1], Image.Resampling.BICUBIC) for p in planes]
    return np.moveaxis(np.stack(list(map(np.asarray, large))).reshape(-1, 3, *size), 1, -1)


def _share(distance: Float64[np.ndarray, "height width"], width: float) -> np.ndarray:
    """1 at the known pixels, and 0 from `width` pixels beyond the first repainted one."""
    return np.maximum(1 - distance / (1 + max(1, round(width))), 0)[:, :, None].astype(np.float32)


def _mean_around(
    x: Float32[np.ndarray, "batch height width 3"], known: Mask, side: int
) -> Float32[np.ndarray, "batch height width 3"]:
    """Where x is known, its mean over the known pixels in a square around."""
    size, known = (1, side, side, 1), known[None, :, :, None]
    share = scipy.ndimage.uniform_filter(known.astype(np.float32), size)
    return scipy.ndimage.uniform_filter(x * known, size) / np.where(known, share, 1)


def _digest(pixels: np.ndarray, size: Size) -> dict[str, Any]:
    return {"size": list(size), "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
