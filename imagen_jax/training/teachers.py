"""A student's teacher: where it is kept, and whether it is one of such a student."""

import functools
import json
from typing import Any

import numpy as np
from jax.sharding import Mesh

from imagen_jax.config import StageConfig
from imagen_jax.diffusion import samplers
from imagen_jax.errors import UsageError
from imagen_jax.networks import GatherAs, Params, abstract_sampled_unet, build_networks
from imagen_jax.parallel import distributed
from imagen_jax.storage.digests import sealed, unsealed
from imagen_jax.storage.files import AnyPath, write_text
from imagen_jax.storage.hub import stage_path
from imagen_jax.storage.json_text import read_object
from imagen_jax.stored.stages import StoredStage, open_stage
from imagen_jax.training.alike import READ, SEEN, check_alike
from imagen_jax.training.distillation import (
    TEACHER,
    Teacher,
    distillation_loss,
    teachers_grid,
)
from imagen_jax.training.objective import Objective, diffusion_loss
from imagen_jax.training.start import from_stage

_ACCOUNT = "teacher.json"


def own_objective(config: StageConfig, gather: GatherAs | None = None) -> Objective:
    """What a config's run makes small: the diffusion loss, or a student's distance to its teacher.

    Raises:
        UsageError: as `open_teacher`.
    """
    student = config.distillation
    if not student.teacher:
        _require_teacher("conditions.guidance", config.conditions.guidance)
        _require_teacher("distillation.steps", student.steps)
        return diffusion_loss
    theirs = open_teacher(config).config
    return functools.partial(distillation_loss, Teacher(theirs, build_networks(theirs, gather)))


def _require_teacher(name: str, learned: Any) -> None:
    if learned is not None:
        raise UsageError(
            f"{name} is {learned} and distillation.teacher is empty; only a teacher shows a stage "
            "that, which --teacher names."
        )


def open_teacher(config: StageConfig) -> StoredStage:
    """The stage that `distillation.teacher` names.

    Raises:
        UsageError: it is no stage, or none that such a student learns from.
    """
    named = config.distillation.teacher
    teacher = open_stage(stage_path(named), needs_encoder=False)
    check_teacher(config, teacher.config, f"distillation.teacher {named}")
    return teacher


def check_teacher(config: StageConfig, teacher: StageConfig, origin: str) -> None:
    """Raises a UsageError for a teacher that does and sees other things than the student."""
    check_alike(teacher, config, origin, (*SEEN, *READ, "text_encoder.tokenizer"))
    learned = teacher.conditions.guidance
    if learned not in (None, config.conditions.guidance):
        raise UsageError(
            f"{origin} learned conditions.guidance {learned}; this config has "
            f"{config.conditions.guidance}."
        )
    steps = config.distillation.steps
    if steps is None:
        return
    if config.distillation.method == "consistency" and teacher.distillation.steps is not None:
        raise UsageError(
            f"{origin} takes {teacher.distillation.steps} steps; distillation.method 'consistency' "
            "learns from a teacher that takes any number."
        )
    if teacher.distillation.steps not in (None, 2 * steps):
        raise UsageError(
            f"{origin} takes {teacher.distillation.steps} steps and distillation.steps is {steps}; "
            "a student takes half as many as its teacher."
        )
    _check_times(config, teacher, origin)


def _check_times(config: StageConfig, teacher: StageConfig, origin: str) -> None:
    """A student's times must be among its teacher's, and equally far apart there."""
    each = config.distillation.each
    steps, settings = config.distillation.steps, config.sampling
    timesteps = settings.timesteps if settings.num_steps == steps else ()
    grid = samplers.time_grid(config.diffusion.schedule, steps, settings.spacing, timesteps)
    if not np.allclose(grid[:-1], teachers_grid(config, teacher)[:-1:each], atol=1e-4):
        raise UsageError(
            f"sampling.timesteps is {timesteps}; they must be one in {each} of the "
            f"{each * steps} steps that {origin} takes."
        )


def has_new_head(config: StageConfig, teacher: StageConfig) -> bool:
    """Whether the student predicts something else than its teacher."""
    of = [
        (one.diffusion.prediction, one.unet.variant.predicts_variance) for one in (config, teacher)
    ]
    return of[0] != of[1]


def first_student(config: StageConfig, abstract: Params) -> Params:
    """A student's first parameters: its teacher's, but for a head that predicts something else.

    Args:
        abstract: its parameters, with their places.

    Raises:
        UsageError: the teacher is another network.
    """
    new_head = has_new_head(config, open_teacher(config).config)
    path = stage_path(config.distillation.teacher)
    return from_stage(config, abstract, path, None, "distillation.teacher", new_head=new_head)


def load_teacher(config: StageConfig, mesh: Mesh) -> Params:
    """The teacher's U-Net, on the mesh; nothing without a teacher."""
    if not config.distillation.teacher:
        return {}
    return {TEACHER: open_teacher(config).unet.load(mesh)}


def abstract_teacher(config: StageConfig) -> Params:
    """Shapes and dtypes of what `load_teacher` loads."""
    if not config.distillation.teacher:
        return {}
    return {TEACHER: abstract_sampled_unet(open_teacher(config).config)}


def account_of_teacher(config: StageConfig, workdir: AnyPath) -> dict[str, str]:
    """Whose student a run trains: network -> fingerprint.

    Raises:
        UsageError: that of the training directory learned from other weights so far.
    """
    taught_by, path = {"unet": open_teacher(config).unet.fingerprint()}, workdir / _ACCOUNT
    if path.exists() and unsealed(read_object(path), str(path)) != taught_by:
        raise UsageError(
            f"{workdir} holds a student of other weights than those that distillation.teacher "
            "names now."
        )
    return taught_by


def keep_account_of_teacher(workdir: AnyPath, taught_by: dict[str, str]) -> None:
    """Notes in a training directory whose student it trains; one process writes."""
    if distributed.leads():
        write_text(workdir / _ACCOUNT, json.dumps(sealed(taught_by), indent=2))
