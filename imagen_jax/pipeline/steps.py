"""How each stage paints in a call: its settings, its size, and what it edits."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.arguments import changed_settings
from imagen_jax.pipeline.editing import EDIT_SETTINGS, Edit, EditSettings
from imagen_jax.pipeline.given import fit
from imagen_jax.pipeline.painting import SampledStage
from imagen_jax.pipeline.sizes import size_of_picture, stage_sizes
from imagen_jax.pipeline.tiles import tiling_of
from imagen_jax.stored.stages import StoredStage


def sampled_stages(
    stages: Sequence[StoredStage],
    settings: Mapping[str, Any],
    size: Sequence[int] | str | None = None,
    aspect: str | None = None,
    edit: Edit | None = None,
    tile: int | None = None,
) -> list[SampledStage]:
    """The stages with their settings, changed by those of a call, their sizes and edits.

    Args:
        settings: fields of `SamplingConfig` and `EditSettings`.
        size, aspect: as `stage_sizes` takes them; with neither, those of the edit's picture.
        tile: side of the tiles of super-resolution stages whose pictures are larger.

    Raises:
        UsageError: a value is out of its range, or there is nothing that it belongs to.
    """
    configs = [stage.config for stage in stages]
    own = {name: value for name, value in settings.items() if name not in EDIT_SETTINGS}
    changed = changed_settings([config.sampling for config in configs], own)
    changed = [config.as_learned(x) for config, x in zip(configs, changed, strict=True)]
    editing = {name: value for name, value in settings.items() if name in EDIT_SETTINGS}
    _check_editing(stages, editing, edit)
    if edit is not None and size is None and aspect is None:
        size = size_of_picture(configs, edit.size, of_any_size=tile is not None)
    sizes = stage_sizes(configs, size, aspect)
    steps = [
        SampledStage(*of, tile=tile if tiling_of(of[0].config, of[2], tile) else None)
        for of in zip(stages, changed, sizes, strict=True)
    ]
    if edit is None or configs[0].low_resolution is not None:
        return steps
    each = changed_settings([EditSettings()] * len(steps), editing)
    return [_editing(step, edit, own) for step, own in zip(steps, each, strict=True)]


def check_tile(tile: int | None, configs: Sequence[StageConfig], split_height: int) -> None:
    """Raises a UsageError for tiles of nothing, or of pictures that devices share."""
    if tile is not None and split_height > 1:
        raise UsageError(
            f"tile is {tile}, but devices share the height of a picture; leave out one."
        )
    if tile is not None and all(config.low_resolution is None for config in configs):
        raise UsageError(f"tile is {tile!r}; it is of super-resolution stages, and there is none.")


def check_picture_guidance(steps: Sequence[SampledStage]) -> None:
    """Raises a UsageError where pictures are to guide, and no stage has learned to be guided by
    them; one of several need not have."""
    scales = {step.settings.picture_guidance_scale for step in steps} - {1.0}
    if scales and not any(step.stage.config.conditions.can_hide for step in steps):
        raise UsageError(
            f"picture_guidance_scale is {scales.pop():g}, but no stage has learned to do without "
            "pictures that it is shown (conditions.picture_dropout)."
        )


def picture_to_enlarge(
    steps: Sequence[SampledStage], edit: Edit | None
) -> UInt8[np.ndarray, "height width 3"] | None:
    """What a first super-resolution stage is given; None where a base comes first."""
    upscale = steps[0].stage.config.upscale
    if edit is None or steps[0].stage.config.low_resolution is None:
        return None
    return fit(edit.picture, (steps[0].size[0] // upscale, steps[0].size[1] // upscale))


def _editing(step: SampledStage, edit: Edit, settings: EditSettings) -> SampledStage:
    config, num_steps = step.stage.config, step.settings.num_steps
    own = edit.of_stage(config, num_steps, settings, step.size)
    return dataclasses.replace(step, edit=own)


def _check_editing(
    stages: Sequence[StoredStage], editing: Mapping[str, Any], edit: Edit | None
) -> None:
    """Raises a UsageError for settings of an edit where nothing is edited."""
    given = {name: value for name, value in editing.items() if value is not None}
    if edit is None:
        for name, value in given.items():
            raise UsageError(
                f"{name} is {value!r}, but there is no image; it says how one is edited."
            )
        return
    first = stages[0]
    if first.config.low_resolution is None:
        if edit.mask is None:
            for name in given.keys() - {"strength"}:
                raise UsageError(f"{name} is {given[name]!r}, but there is no mask.")
        return
    alone = (
        f"the first stage, {first.origin} ({first.config.name}), enlarges the picture; a base must "
        "come first for an edit."
    )
    if edit.mask is not None:
        raise UsageError(f"There is a part to repaint, but {alone}")
    for name, value in given.items():
        raise UsageError(f"{name} is {value!r}, but {alone}")
