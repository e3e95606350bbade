"""The flags of `train` beside the fields of the config, and the rules between them. No JAX here."""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Literal

import tyro

from imagen_jax.config import StageConfig
from imagen_jax.config.choices import Weights
from imagen_jax.errors import UsageError
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.planning.options import CompileOptions

_ANY = "any"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuringFlags:
    """Figures such as FID while training, of pictures painted by the EMA of the weights."""

    every: int = 0
    """Steps between two times; 0 measures nothing."""
    pictures: int = 5000
    """Pictures of a time, after captions of the held-out set where training.eval_every opens it,
    else of the training data."""
    reference: Path | None = None
    """Directory that `python -m imagen_jax stats` has made; it says which network measures."""
    weights: Path | None = None
    """Of that network; they stay in memory while the stage trains."""
    measures: tuple[str, ...] = ()
    """As `python -m imagen_jax evaluate` takes them; all of the network where none is named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFlags:
    """Learning from a trained stage to paint in a few steps."""

    teacher: Annotated[str, tyro.conf.arg(metavar="STAGE")] = ""
    """The stage that a student learns from, by a config such as distill_64, which then takes its
    networks and its data from it."""
    student_steps: Annotated[
        str, tyro.conf.arg(metavar="N[,N...]", help_behavior_hint="(default: any)")
    ] = ""
    """Sampling steps that the student is to take; `any` learns guidance alone. Several, each half
    of the one before, as in any,16,8,4, are trained in turn, each in WORKDIR/N and written to
    WORKDIR/N.safetensors."""

    @property
    def steps(self) -> tuple[int | None, ...]:
        """The steps of each student, None for any.

        Raises:
            UsageError: they are no such numbers, or do not halve.
        """
        words = (self.student_steps or _ANY).split(",")
        known = [word.isdecimal() and 0 < len(word) < 7 and int(word) > 0 for word in words]
        if not all(known[1:]) or not (known[0] or words[0] == _ANY):
            raise UsageError(
                f"--student-steps is {self.student_steps!r}; it must be whole numbers from 1 with "
                f"commas between them, of which the first may be {_ANY!r}."
            )
        steps = tuple(None if word == _ANY else int(word) for word in words)
        for one, later in itertools.pairwise(steps):
            if one not in (None, 2 * later):
                raise UsageError(
                    f"--student-steps is {self.student_steps!r}; {later} is not half of {one}, and "
                    "a student takes half as many steps as its teacher."
                )
        return steps

    def check(self) -> None:
        """Raises a UsageError for steps of nobody."""
        if self.student_steps and not self.teacher:
            raise UsageError(
                f"--student-steps {self.student_steps} belongs to --teacher, which is missing."
            )


@dataclasses.dataclass(frozen=True)
class GivenSteps:
    num_steps: int = 0
    """0 where it is not given."""


@dataclasses.dataclass(frozen=True)
class GivenData:
    source: str = ""
    mixture: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class GivenMethod:
    method: str = ""
    consistency_steps: int = 0


@dataclasses.dataclass(frozen=True)
class GivenFields:
    """Flags of the config that are read before the others, since a field of it that belongs to
    another value then does not count."""

    sampling: GivenSteps = GivenSteps()
    data: GivenData = GivenData()
    distillation: GivenMethod = GivenMethod()

    def with_method(self, recipe: StageConfig) -> StageConfig:
        """The recipe of students as they are to learn: the times of their steps follow from it."""
        method = {x: value for x, value in vars(self.distillation).items() if value}
        student = dataclasses.replace(recipe.distillation, **method)
        return dataclasses.replace(recipe, distillation=student)

    def without_replaced(self, config: StageConfig) -> StageConfig:
        """The config without the times of its sampling steps, where another number of steps is
        given, and without its mixture, where a source is.

        Raises:
            UsageError: a source and a mixture are given.
        """
        steps, data = self.sampling.num_steps, config.data
        if self.data.source and self.data.mixture:
            raise UsageError(
                f"--data.source {self.data.source} and --data.mixture are both given; a mixture "
                "names all of its sources."
            )
        if self.data.source:
            data = dataclasses.replace(data, mixture=())
        sampling = config.sampling
        if steps not in (0, sampling.num_steps) and not config.distillation.steps:
            sampling = dataclasses.replace(sampling, num_steps=steps, timesteps=())
        return dataclasses.replace(config, sampling=sampling, data=data)


@dataclasses.dataclass(frozen=True)
class Flags:
    config: Annotated[StageConfig, tyro.conf.arg(name="")]
    compiling: Annotated[CompileOptions, tyro.conf.arg(name="")] = CompileOptions()
    what: Literal["step", "embedding"] = "step"
    """Of --compile-only: the training step, or the text encoder alone on a batch's captions."""
    workdir: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="(required)")] = ""
    """Training directory: made, or gone on from. It may lie in a bucket (gs://...)."""
    init_from: Annotated[str, tyro.conf.arg(metavar="STAGE")] = ""
    """A trained stage (training directory or exported file) whose weights a new run starts
    from; one that has a checkpoint goes on from that."""
    weights: Weights | None = None
    """Of --init-from: ema (what a training directory gives otherwise) or raw."""
    allow_change: tuple[str, ...] = ()
    """Fields that may differ from those of the run that is gone on with, such as
    optimizer.learning_rate or training.batch_size."""
    allow_changed_data: bool = False
    """Go on with other records than those that the run has seen so far: files that have changed,
    or copies of them with other times; or with another tokenizer or frozen text encoder."""
    profile: Annotated[str, tyro.conf.arg(metavar="START:STOP")] = ""
    """Steps to profile into WORKDIR/profile: from START up to, without, STOP. The signal SIGUSR1
    profiles the next few."""
    measuring: MeasuringFlags = MeasuringFlags()
    teaching: tyro.conf.OmitArgPrefixes[TeacherFlags] = TeacherFlags()
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""


def check(flags: Flags) -> None:
    """Raises a UsageError for flags that do not go together, or are missing."""
    compiles = flags.compiling.compile_only
    if not compiles and flags.what != "step":
        raise UsageError(f"--what {flags.what} belongs to --compile-only, which is missing.")
    if compiles and (flags.workdir or flags.init_from or flags.profile):
        raise UsageError(
            "--compile-only trains nothing; leave --workdir, --init-from and --profile out."
        )
    if flags.init_from and len(flags.teaching.steps) > 1:
        raise UsageError(
            f"--init-from is {flags.init_from} and --student-steps names "
            f"{len(flags.teaching.steps)} students; only one student can begin with the weights of "
            "a stage."
        )
    if flags.weights and not flags.init_from:
        raise UsageError(f"--weights {flags.weights} belongs to --init-from, which is missing.")
    if not compiles and not flags.workdir:
        raise UsageError(
            "--workdir is missing; name a directory for the run, such as --workdir runs/mine."
        )
    _check_measuring(flags)
    flags.teaching.check()
    steps_to_profile(flags.profile)  # A mistake in it shows at once.


def _check_measuring(flags: Flags) -> None:
    measuring = flags.measuring
    if measuring.every < 0 or measuring.pictures < 1:
        raise UsageError(
            f"--measuring.every is {measuring.every} and --measuring.pictures "
            f"{measuring.pictures}; the first must not be negative, the second positive."
        )
    if not measuring.every:
        if measuring != MeasuringFlags():
            raise UsageError("The flags --measuring.… belong to --measuring.every, which is 0.")
        return
    if flags.compiling.compile_only:
        raise UsageError("--compile-only trains nothing; leave --measuring.every out.")
    for name in ("reference", "weights"):
        if getattr(measuring, name) is None:
            raise UsageError(f"--measuring.{name} is missing, which --measuring.every needs.")


def steps_to_profile(window: str) -> range:
    """START:STOP -> the steps from START to STOP - 1; none for an empty text."""
    if not window:
        return range(0)
    start, _, stop = window.partition(":")
    are_steps = start.isdecimal() and stop.isdecimal() and max(map(len, (start, stop))) <= 10
    if not (are_steps and 0 < int(start) < int(stop)):
        raise UsageError(
            f"--profile is {window!r}; it must be START:STOP, two steps with 0 < START < STOP."
        )
    return range(int(start), int(stop))
