"""The flags of `sample`, and what can be said of them before anything is loaded. No JAX here."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from imagen_jax.cli import per_stage
from imagen_jax.cli.edit_flags import EditFlags, SteerFlags
from imagen_jax.cli.map_flags import MapFlags
from imagen_jax.cli.stage_flags import OURS, SHIPPED, SHIPPED_STUDENT, StageFlags
from imagen_jax.errors import UsageError
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.pipeline.sizes import parse_aspect, parse_size
from imagen_jax.planning.options import CompileOptions
from imagen_jax.storage.files import check_writable

_LIKE_ONE_PROMPT = 3
"""So many prompts of one word each are likely to be one without quotes."""
_MOST = 2**20
"""Of pictures: a slip of the finger ends before memory is taken."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """How to sample: one value for all stages, or one for each, as in --steps 64,32,16."""

    steps: per_stage.Steps = ()
    """Denoising steps; more take longer. A stage of DeepFloyd IF also takes the name of a set of
    its steps, such as smart50."""
    guidance: per_stage.Scale = ()
    """How closely to follow the prompt: guidance scale w; 1 is off and needs half the work."""
    picture_guidance: per_stage.Scale = ()
    """How closely to follow maps and sketches, beside --guidance: 1 is off and needs less work."""
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
    preview: bool = False
    """Write a GIF beside each picture too, of the estimates that it came from."""
    from_manifest: Annotated[
        str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")
    ] = ""
    """Make the files of a manifest.json again; flags beside it may say where its stages, pictures
    and files are now."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """What the devices do at once."""

    batch_size: int = 4
    """Pictures painted at once: more need more memory."""
    split_height: int = 1
    """Devices that share the height of one picture in the super-resolution stages; the other
    devices take other pictures."""
    tile: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: none)")] = 0
    """Side, in pixels, of the tiles by which super-resolution stages denoise larger pictures, so
    that these need no more memory; an --image that --base none enlarges may be of any size then."""
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompilingFlags(CompileOptions):
    """Asking what a TPU would need, without one."""

    what: Literal["steps", "embedding"] = "steps"
    """Of --compile-only: each stage's denoising steps, or each text encoder on --batch-size
    prompts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    prompts: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar='"PROMPT" ...', help_behavior_hint=""),
    ]
    """What to paint, each prompt in quotes."""
    classes: per_stage.Classes = ()
    """What stages that were trained on classes paint: numbers of classes, as in 3,7."""
    pictures: OmitArgPrefixes[PictureFlags] = PictureFlags()
    stages: OmitArgPrefixes[StageFlags] = StageFlags(base="")
    sampling: OmitArgPrefixes[SamplingFlags] = SamplingFlags()
    edit: OmitArgPrefixes[EditFlags] = EditFlags()
    shown: OmitArgPrefixes[MapFlags] = MapFlags()
    steering: OmitArgPrefixes[SteerFlags] = SteerFlags()
    output: OmitArgPrefixes[OutputFlags] = OutputFlags()
    devices: OmitArgPrefixes[DeviceFlags] = DeviceFlags()
    compiling: OmitArgPrefixes[CompilingFlags] = CompilingFlags()
    distributed: DistributedFlags = DistributedFlags()


def with_base(flags: Flags) -> Flags:
    """The flags with the base that paints where none is named: for prompts alone the shipped one's
    student, and where more is said the shipped one, since a student does what it learned."""
    if flags.stages.base:
        return flags
    more = (flags.sampling, flags.edit, flags.shown, flags.steering, flags.stages.base_adapters)
    alone = more == (SamplingFlags(), EditFlags(), MapFlags(), SteerFlags(), ())
    base = SHIPPED_STUDENT if alone else SHIPPED
    return dataclasses.replace(flags, stages=dataclasses.replace(flags.stages, base=base))


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
        flag, value = name.replace("_", "-"), getattr(part, name)
        if value < 1:
            raise UsageError(f"--{flag} is {value}; it must be at least 1.")
        if value > _MOST:
            raise UsageError(f"--{flag} is {value}; it must be at most {_MOST:,}.")
    seed = flags.pictures.seed
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed is {seed}; it must lie between 0 and {2**32 - 1}.")
    _check_size(flags.pictures)
    if flags.compiling.compile_only:
        if flags.stages.embeddings:
            raise UsageError("--compile-only embeds no prompts; leave --embeddings out.")
        given = (flags.edit, flags.steering, flags.shown)
        if given != (EditFlags(), SteerFlags(), MapFlags()):
            raise UsageError(
                "--compile-only paints nothing; leave out the flags of an --image, of maps and of "
                "steering."
            )
        return
    if flags.compiling.what != "steps":
        raise UsageError(
            f"--what {flags.compiling.what} belongs to --compile-only, which is missing."
        )
    flags.edit.check()
    flags.shown.check()
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
    given = bool(flags.prompts or flags.steering.prompts_file)
    if flags.prompts and flags.steering.prompts_file:
        raise UsageError("There are prompts and --prompts-file; give one of them.")
    if not given and flags.edit.image and flags.stages.embeddings:
        raise UsageError("--embeddings holds prompts, but there is none; leave it out.")
    if not given and flags.stages.base in OURS and not flags.edit.image:
        raise UsageError('There is no prompt; give at least one in quotes, such as "a red apple".')
    for prompt in flags.prompts:
        if not prompt.strip():
            raise UsageError(f"A prompt is {prompt!r}; it must not be empty.")
    if flags.edit.variations and flags.pictures.num_images != 1:
        raise UsageError("--variations and --num-images say the same; give one of them.")
