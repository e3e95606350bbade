"""Students' configs, and runs of one student after another, each of half as many steps."""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Any

from imagen_jax.checkpoints.checkpoint import newest_step
from imagen_jax.checkpoints.directory import read_config
from imagen_jax.config import (
    ConditionsConfig,
    DiffusionConfig,
    DistillationConfig,
    SamplingConfig,
    StageConfig,
)
from imagen_jax.diffusion import chain
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import to_host
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.hub import stage_path
from imagen_jax.stored.encoders import ENCODER_COPY
from imagen_jax.stored.stages import load_weights
from imagen_jax.training.loop import run
from imagen_jax.training.teachers import account_of_teacher, check_teacher
from imagen_jax.weights.stage_file import (
    exported_config,
    is_stage_file,
    read_stage_config,
    save_stage_file,
)
from imagen_jax.weights.stored import open_file

_OF_BOTH_ESTIMATES = (
    "guidance_parallel",
    "guidance_max_norm",
    "guidance_momentum",
    "renoising",
)
"""Settings of guidance for which a student's one estimate is not enough."""
_OF_SOME_STEPS = ("guidance_interval", "guidance_oscillates_from")
"""Settings that leave steps unguided, which is weight 1."""
Steps = int | None
"""Of a student; None for any, where it learns guidance alone."""


def student_of(recipe: StageConfig, teacher: str, steps: Steps) -> StageConfig:
    """The config of a student of a stage: its teacher's networks, trained as the recipe says.

    It starts no device: of several processes each calls it before they know of each other.

    A teacher that predicts eps gets a student that predicts what the recipe says, and one that is
    not guided a student that knows no guidance.

    Args:
        recipe: how long, how fast, on how many pictures, and the range of guidance.
        teacher: training directory or exported file.
        steps: of the student.

    Raises:
        UsageError: it is no stage, one of another resolution than the recipe's, or one that such
            a student has nothing to learn from.
    """
    path = stage_path(teacher)
    theirs = read_config(path) if path.is_dir() else read_stage_config(path)
    for name in ("resolution", "low_resolution"):
        if getattr(theirs, name) != getattr(recipe, name):
            raise UsageError(
                f"The teacher {teacher} has {name} {getattr(theirs, name)}; {recipe.name} has "
                f"{getattr(recipe, name)}."
            )
    source = teacher if _holds_encoder(path, theirs) else theirs.text_encoder.source
    conditions = _conditions(recipe, theirs)
    diffusion = _diffusion(recipe.diffusion, theirs.diffusion)
    same = conditions == theirs.conditions and diffusion.prediction == theirs.diffusion.prediction
    if steps is None and same:
        raise UsageError(
            f"The teacher {teacher} is not guided, or takes its weight already; a student of any "
            "number of steps has nothing to learn from it: say how many it is to take."
        )
    student = dataclasses.replace(recipe.distillation, teacher=teacher, steps=steps)
    unet = theirs.unet
    if unet.variant.predicts_variance:
        variant = dataclasses.replace(unet.variant, predicts_variance=False)
        unet = dataclasses.replace(unet, variant=variant)
    return dataclasses.replace(
        recipe,
        unet=unet,
        conditions=conditions,
        text_encoder=dataclasses.replace(theirs.text_encoder, train=False, source=source),
        diffusion=diffusion,
        data=theirs.data,
        training=dataclasses.replace(
            recipe.training, sample_prompts=theirs.training.sample_prompts
        ),
        sampling=_sampling(theirs, conditions, student),
        distillation=student,
    )


def next_student(config: StageConfig, teacher: str, steps: int) -> StageConfig:
    """The config of a student of a student, `config`, once that is the stage `teacher`."""
    student = dataclasses.replace(config.distillation, teacher=teacher, steps=steps)
    sampling = _sampling(config, config.conditions, student)
    return dataclasses.replace(config, sampling=sampling, distillation=student)


def train_students(
    config: StageConfig, workdir: AnyPath, steps: Sequence[Steps], **options: Any
) -> None:
    """Trains students in turn: each learns from the one before, and is kept as a stage file.

    The student of N steps has the training directory `workdir`/N and the file
    `workdir`/N.safetensors ("any" stands for None). A file that is there is not made again, so that
    the same call goes on where it was stopped.

    Args:
        config: of the first student.
        steps: of each, halving.
        options: as `loop.run` takes them.

    Raises:
        UsageError: as `loop.run`, and of any student before the first one is trained.
    """
    students = _in_turn(config, workdir, steps)
    for (teacher, made), (student, _) in itertools.pairwise(students):
        check_teacher(student, teacher, str(made))
    for student, made in students:
        own = made.with_suffix("")
        if _is_made(made, own, student):
            continue
        ends = run(student, own, **options)
        if (newest_step(own) or 0) < student.training.num_steps:
            return  # It was asked to stop.
        _write(own, made)
        if ends:
            if made != students[-1][1] and distributed.leads():
                print(f"Stopped after {made}; the same command goes on.", file=sys.stderr)
            return


def _in_turn(
    config: StageConfig, workdir: AnyPath, steps: Sequence[Steps]
) -> list[tuple[StageConfig, AnyPath]]:
    """The config of each student and the file that it is to be kept in, which teaches the next."""
    students: list[tuple[StageConfig, AnyPath]] = []
    for count in steps:
        made = workdir / f"{'any' if count is None else count}.safetensors"
        if students:
            config = next_student(config, str(students[-1][1]), count)
        students.append((config, made))
    return students


def _is_made(path: AnyPath, own: AnyPath, config: StageConfig) -> bool:
    """Whether a student's file is there, of this config and this teacher.

    Args:
        own: the student's training directory.

    Raises:
        UsageError: the file is no stage, or the directory that of another teacher's student.
    """
    if not path.is_file():
        return False
    if not is_stage_file(path):
        raise UsageError(f"{path} is no exported stage; a student is to be written there.")
    made, wanted = (
        exported_config(x, with_encoder=True) for x in (read_stage_config(path), config)
    )
    if made != wanted:
        return False
    account_of_teacher(config, own)
    return True


def _write(workdir: AnyPath, path: AnyPath) -> None:
    """Writes the stage of a training directory; all processes take part and one writes."""
    # An encoder that came from no stage is large, and stays where it is.
    stage = load_weights(workdir, with_encoder=(workdir / ENCODER_COPY).exists())
    params = to_host(stage.params)
    if distributed.leads():
        save_stage_file(path, stage.config, params, "float32", stage.weights, stage.tokenizer)
    distributed.wait_for_all("wrote a student")


def _holds_encoder(path: AnyPath, theirs: StageConfig) -> bool:
    """Whether a stage has its text encoder with it, or reads it elsewhere."""
    if not theirs.conditions.text:
        return False
    if path.is_file():
        return any(name.startswith("text_encoder.") for name in open_file(path)[1])
    return theirs.text_encoder.train or bool(theirs.adapter.rank) or (path / ENCODER_COPY).exists()


def _conditions(recipe: StageConfig, theirs: StageConfig) -> ConditionsConfig:
    learns = theirs.conditions.can_be_dropped and theirs.sampling.guidance_scale != 1
    if theirs.conditions.guidance is not None or not learns:
        return theirs.conditions
    return dataclasses.replace(theirs.conditions, guidance=recipe.conditions.guidance)


def _diffusion(recipe: DiffusionConfig, theirs: DiffusionConfig) -> DiffusionConfig:
    """The teacher's process, and the recipe's loss."""
    prediction = recipe.prediction if theirs.prediction == "eps" else theirs.prediction
    weights = {name: getattr(recipe, name) for name in ("min_snr_gamma", "sigmoid_bias")}
    return dataclasses.replace(theirs, prediction=prediction, **weights)


def _sampling(
    theirs: StageConfig, conditions: ConditionsConfig, student: DistillationConfig
) -> SamplingConfig:
    """A student samples as its teacher, in its own steps, by DDIM."""
    settings, changes = theirs.sampling, {}
    if conditions.guidance is not None:
        low, high = conditions.guidance
        scale = min(max(settings.guidance_scale, low), high)
        plain = SamplingConfig()
        # A student of few steps learns where its teacher is guided, as it learns the rest.
        keeps = student.steps is None and low <= 1 <= high
        lost = _OF_BOTH_ESTIMATES if keeps else (*_OF_BOTH_ESTIMATES, *_OF_SOME_STEPS)
        changes = {name: getattr(plain, name) for name in lost}
        changes["guidance_scale"] = scale
    if student.steps is not None:
        each, steps = student.each, student.steps
        timesteps = _timesteps(theirs, each * steps)[::each]
        changes |= {"sampler": "ddim", "eta": 0.0, "num_steps": steps, "timesteps": timesteps}
    return dataclasses.replace(settings, **changes)


def _timesteps(theirs: StageConfig, count: int) -> tuple[int, ...]:
    """The steps that a teacher takes; none where they are even in a continuous time."""
    settings = theirs.sampling
    if len(settings.timesteps) == count:
        return settings.timesteps
    if theirs.diffusion.schedule != "cosine_chain":
        return ()
    if count > chain.STEPS:
        raise UsageError(
            f"Such a student needs {count} steps of its teacher, whose chain has {chain.STEPS}."
        )
    return chain.spaced(settings.spacing, count)
