"""The flags of `sample`, and what can be said of them before anything is loaded. No JAX here."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from imagen_jax.cli import per_stage
from imagen_jax.config.python_file import stage_or_config
from imagen_jax.errors import UsageError
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.pipeline.shipped import STAGES, shipped_stage
from imagen_jax.pipeline.sizes import parse_aspect, parse_size
from imagen_jax.planning.options import CompileOptions
from imagen_jax.storage.files import AnyPath, check_writable

SHIPPED = "shipped"
NONE = "none"
_LIKE_ONE_PROMPT = 3
"""So many prompts of one word each are likely to be one without quotes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureFlags:
    """How many pictures, and which."""

    num_images: int = 1
    """Pictures of each prompt."""
    seed: int = 0
    """Another seed gives other pictures. Picture i of a seed is the same whatever the batch size or
    the devices."""
    size: Annotated[str, tyro.conf.arg(metavar="HEIGHTxWIDTH")] = ""
    """Of the base's pictures, such as 64x96, which is wider than high; the stages after it enlarge
    them. Empty is what the base was trained on."""
    aspect: Annotated[str, tyro.conf.arg(metavar="WIDTH:HEIGHT")] = ""
    """Such as 3:2, instead of --size: the base's area stays about the same."""
    classes: per_stage.Classes = ()
    """What stages that were trained on classes paint: numbers of classes, as in 3,7."""


_Follower = Annotated[
    str,
    tyro.conf.arg(
        metavar="STAGE", help_behavior_hint="(default: shipped; none after a stage of your own)"
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageFlags:
    """Which networks paint, from the smallest picture to the largest."""

    base: Annotated[str, tyro.conf.arg(metavar="STAGE")] = SHIPPED
    """The stage that paints 64 pixels: a training directory or an exported file."""
    sr256: _Follower = ""
    """The stage from 64 to 256 pixels; `none` stops before it, and `shipped` is the one that ships
    with the package."""
    sr1024: _Follower = ""
    """The stage from 256 to 1024 pixels, in the same way."""
    weights: per_stage.WhichWeights = ()
    """ema or raw: of a training directory, the average of its weights or the weights themselves; an
    exported file holds one of them."""
    embeddings: per_stage.Directories = ()
    """Directory that `python -m imagen_jax embed` wrote and that holds the prompts, or one for each
    stage where their text encoders differ: none of these is loaded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """How to sample: one value for all stages, or one for each, as in --steps 64,32,16."""

    steps: per_stage.Steps = ()
    """Denoising steps; more take longer. A stage of DeepFloyd IF also takes the name of a set of
    its steps, such as smart50."""
    guidance: per_stage.Scale = ()
    """How closely to follow the prompt: guidance scale w; 1 is off and needs half the work."""
    sampler: per_stage.Samplers = ()
    """ancestral, ddim, dpm++ or heun, which takes two evaluations a step."""
    thresholding: per_stage.Thresholdings = ()
    """none, static or dynamic."""
    aug_level: per_stage.Fraction = ()
    """Noise on the low-resolution picture, 0 to 1; the base has none and ignores it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """Where to write."""

    out: Path = Path("out")
    """Directory for the pictures, a contact sheet and manifest.json."""
    resume: bool = False
    """Go on where a run with the same flags was stopped: what --out holds of it stays."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """What the devices do at once."""

    batch_size: int = 4
    """Pictures painted at once: more need more memory."""
    split_height: int = 1
    """Devices that share the height of one picture in the super-resolution stages; the other
    devices take other pictures."""
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompilingFlags(CompileOptions):
    """Asking what a TPU would need, without one."""

    what: Literal["steps", "embedding"] = "steps"
    """Of --compile-only: each stage's denoising steps, or each text encoder on --batch-size
    prompts."""


_PLAIN = tyro.conf.arg(name="")
"""A group of flags whose names are not preceded by the group's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    prompts: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar='"PROMPT" ...', help_behavior_hint=""),
    ]
    """What to paint, each prompt in quotes."""
    pictures: Annotated[PictureFlags, _PLAIN] = PictureFlags()
    stages: Annotated[StageFlags, _PLAIN] = StageFlags()
    sampling: Annotated[SamplingFlags, _PLAIN] = SamplingFlags()
    output: Annotated[OutputFlags, _PLAIN] = OutputFlags()
    devices: Annotated[DeviceFlags, _PLAIN] = DeviceFlags()
    compiling: Annotated[CompilingFlags, _PLAIN] = CompilingFlags()
    distributed: DistributedFlags = DistributedFlags()


def stage_paths(flags: StageFlags) -> list[AnyPath]:
    """The files or directories of the stages to run, from the base up.

    A shipped stage is a small network that knows what it follows: unasked, none follows a
    stage of the user's own.
    """
    paths = []
    for name in STAGES:
        value = getattr(flags, name) or _default_stage(flags, name)
        if value == NONE:
            break
        paths.append(shipped_stage(name) if value == SHIPPED else stage_or_config(value))
    if not paths:
        raise UsageError(f"--base is {NONE!r}; a cascade starts with a base stage.")
    for name in STAGES[len(paths) + 1 :]:
        if getattr(flags, name) not in (NONE, ""):
            end = STAGES[len(paths)]
            ended = f"is {NONE!r}" if getattr(flags, end) else "is missing"
            raise UsageError(
                f"--{name} is {getattr(flags, name)!r}, but --{end} {ended}, which ends the "
                "cascade before it."
            )
    return paths


def _default_stage(flags: StageFlags, name: str) -> str:
    """What a stage is that no flag names."""
    before = {getattr(flags, other) for other in STAGES[: STAGES.index(name)]}
    return SHIPPED if before <= {SHIPPED, ""} else NONE


def tell_what_is_left_out(flags: StageFlags, count: int) -> None:
    """Says on stderr that the cascade ends after `count` stages though nobody said `none`."""
    if count < len(STAGES) and not getattr(flags, STAGES[count]):
        print(
            f"The last stage is --{STAGES[count - 1]}: the stages that ship with this package do "
            f"not follow your own. Name one with --{STAGES[count]} to go on.",
            file=sys.stderr,
        )


def tell_of_missing_quotes(prompts: tuple[str, ...]) -> None:
    """Says on stderr how to quote where many prompts of one word look like one of many words."""
    if len(prompts) >= _LIKE_ONE_PROMPT and not any(" " in prompt for prompt in prompts):
        print(
            f"These are {len(prompts)} prompts of one word each; a prompt of many words stands in "
            f'quotes: "{" ".join(prompts)}"',
            file=sys.stderr,
        )


def check(flags: Flags) -> None:
    """Raises a UsageError for what can be said before anything is loaded."""
    for part, name in (
        (flags.pictures, "num_images"),
        (flags.devices, "batch_size"),
        (flags.devices, "split_height"),
    ):
        if getattr(part, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {getattr(part, name)}; it must be at least 1.")
    seed = flags.pictures.seed
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed is {seed}; it must lie between 0 and {2**32 - 1}.")
    _check_size(flags.pictures)
    if flags.compiling.compile_only:
        if flags.stages.embeddings:
            raise UsageError("--compile-only embeds no prompts; leave --embeddings out.")
        return
    if flags.compiling.what != "steps":
        raise UsageError(
            f"--what {flags.compiling.what} belongs to --compile-only, which is missing."
        )
    _check_prompts(flags)
    out = flags.output.out
    check_writable(out, f"--out is {out}")


def _check_size(flags: PictureFlags) -> None:
    if flags.size and flags.aspect:
        raise UsageError(
            f"--size is {flags.size!r} and --aspect is {flags.aspect!r}; give one of them."
        )
    if flags.size:
        parse_size(flags.size)
    if flags.aspect:
        parse_aspect(flags.aspect)


def _check_prompts(flags: Flags) -> None:
    """Shipped stages read text; of other stages it is known once they are opened."""
    if not flags.prompts and flags.stages.base == SHIPPED:
        raise UsageError('There is no prompt; give at least one in quotes, such as "a red apple".')
    for prompt in flags.prompts:
        if not prompt.strip():
            raise UsageError(f"A prompt is {prompt!r}; it must not be empty.")
