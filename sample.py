"""Paint pictures from prompts.

    python sample.py "a red apple"
    python sample.py "a cat face" "a slice of pizza, noto style" --num-images 4 --seed 1
    python sample.py "a rocket" --base runs/base --sr256 runs/sr256

Without stages of your own it uses the small cascade that ships with the package; after a stage
of your own come only those that you name. Pictures of every stage, a contact sheet and
manifest.json go to --out.

    python sample.py --compile-only --topology v5e:2x4 --base configs/tiny_64.py

compiles each stage's denoising steps for TPUs that need not be there and says what they take
of them. It paints nothing; a stage may then also be a config file, without weights.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from imagen_jax.config import SamplingConfig, Weights
from imagen_jax.errors import UsageError, exit_on_usage_error, parse_flags
from imagen_jax.files import AnyPath, check_writable, to_path
from imagen_jax.planning.options import CompileOptions
from imagen_jax.shipped import STAGES, shipped_stage

SHIPPED = "shipped"
NONE = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    prompts: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PROMPT ...")]
    """What to paint."""
    base: str = SHIPPED
    """Base stage: a training directory or an exported file."""
    sr256: str = ""
    """64->256 stage, `none` to stop before it, or `shipped`; where it is not given, `shipped` after
    the shipped base and `none` after one of your own."""
    sr1024: str = ""
    """256->1024 stage, in the same way."""
    weights: str = ""
    """ema or raw: of a training directory, the average of its weights or the weights themselves; an
    exported file holds one of them. One for all stages, or one per stage as ema,raw,ema."""
    steps: str = ""
    """Denoising steps: one number for all stages, or one per stage as 64,32,16. A stage of
    DeepFloyd IF also takes the name of a set of its steps, such as smart50. Like the next four
    flags it defaults to what each stage's config says."""
    sampler: str = ""
    """ancestral, ddim, dpm++ or heun (two evaluations a step)."""
    guidance: str = ""
    """Guidance scale w; 1 is off."""
    thresholding: str = ""
    """none, static or dynamic."""
    aug_level: str = ""
    """Noise on the low-resolution picture, 0 to 1; the base has none and ignores it."""
    seed: int = 0
    """Picture i of a seed is the same whatever the batch size or the devices."""
    num_images: int = 1
    """Pictures per prompt."""
    batch_size: int = 4
    """Pictures painted at once."""
    split_height: int = 1
    """Devices that share the height of one picture in the super-resolution stages; the other
    devices take other pictures."""
    embeddings: str = ""
    """Directory that `python -m imagen_jax embed` wrote and that holds the prompts, or one a stage
    where their text encoders differ: none of these is loaded."""
    out: Path = Path("out")
    """Directory for the pictures."""
    resume: bool = False
    """Go on where a run with the same flags was stopped: what --out holds of it stays."""
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""
    compiling: Annotated[CompileOptions, tyro.conf.arg(name="")] = CompileOptions()
    what: Literal["steps", "embedding"] = "steps"
    """Of --compile-only: each stage's denoising steps, or each text encoder on --batch-size
    prompts."""


def per_stage(name: str, text: str, kind: Callable[[str], Any], count: int) -> list[Any]:
    """`text` as one value per stage; None where the stage's config decides.

    Raises:
        UsageError: not a `kind`, or neither one value nor `count`.
    """
    if not text:
        return [None] * count
    try:
        values = [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        takes = "int" if kind is step_settings else kind.__name__
        raise UsageError(f"--{name} is {text!r}; it takes {takes} values.") from None
    if kind is float and not all(map(math.isfinite, values)):
        raise UsageError(f"--{name} is {text!r}; it takes finite numbers.")
    if len(values) not in (1, count):
        raise UsageError(
            f"--{name} has {len(values)} values; give one for all stages or {count}, one for each."
        )
    return values * count if len(values) == 1 else values


def step_settings(text: str) -> dict[str, Any]:
    """Settings for `--steps` of one stage: a number, or a public set of steps of a chain."""
    from imagen_jax.diffusion.chain import SETS, sections

    chosen = sections(SETS[text]) if text in SETS else ()
    return {"num_steps": len(chosen) if chosen else int(text), "timesteps": chosen}


def stage_weights(flags: Flags, count: int) -> list[Weights | None]:
    """Which of each stage; None where nobody says."""
    chosen = per_stage("weights", flags.weights, str, count)
    for weights in chosen:
        if weights not in (None, *get_args(Weights)):
            raise UsageError(f"--weights is {flags.weights!r}; it takes ema and raw.")
    return chosen


def stage_settings(flags: Flags, defaults: list[SamplingConfig]) -> list[SamplingConfig]:
    """What each stage samples with: its config's defaults, changed by flags."""
    fields = {
        "sampler": ("sampler", str),
        "guidance_scale": ("guidance", float),
        "thresholding": ("thresholding", str),
        "aug_level": ("aug-level", float),
    }
    chosen = per_stage("steps", flags.steps, step_settings, len(defaults))
    changes = [dict(change or {}) for change in chosen]
    for field, (flag, kind) in fields.items():
        text = getattr(flags, flag.replace("-", "_"))
        for change, value in zip(changes, per_stage(flag, text, kind, len(defaults)), strict=True):
            if value is not None:
                change[field] = value
    return [dataclasses.replace(d, **change) for d, change in zip(defaults, changes, strict=True)]


def stage_paths(flags: Flags) -> list[AnyPath]:
    """The files or directories of the stages to run, from the base up.

    A shipped stage is a small network that knows what it follows: unasked, none follows a
    stage of the user's own.
    """
    paths = []
    for name in STAGES:
        value = getattr(flags, name) or default_stage(flags, name)
        if value == NONE:
            break
        paths.append(shipped_stage(name) if value == SHIPPED else to_path(value))
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


def default_stage(flags: Flags, name: str) -> str:
    """What a stage is that no flag names."""
    before = {getattr(flags, other) for other in STAGES[: STAGES.index(name)]}
    return SHIPPED if before <= {SHIPPED, ""} else NONE


def tell_what_is_left_out(flags: Flags, count: int) -> None:
    """Says on stderr that the cascade ends after `count` stages though nobody said `none`."""
    if count < len(STAGES) and not getattr(flags, STAGES[count]):
        print(
            f"The last stage is --{STAGES[count - 1]}: the stages that ship with this package do "
            f"not follow your own. Name one with --{STAGES[count]} to go on.",
            file=sys.stderr,
        )


def check(flags: Flags) -> None:
    """Raises a UsageError for what can be said before anything is loaded."""
    for name in ("num_images", "batch_size", "split_height"):
        if getattr(flags, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {getattr(flags, name)}; it must be at least 1.")
    if not 0 <= flags.seed < 2**32:
        raise UsageError(f"--seed is {flags.seed}; it must lie between 0 and {2**32 - 1}.")
    if flags.compiling.compile_only:
        if flags.embeddings:
            raise UsageError("--compile-only embeds no prompts; leave --embeddings out.")
        return
    if flags.what != "steps":
        raise UsageError(f"--what {flags.what} belongs to --compile-only, which is missing.")
    if not flags.prompts:
        raise UsageError('There is no prompt; give at least one, such as "a red apple".')
    for prompt in flags.prompts:
        if not prompt.strip():
            raise UsageError(f"A prompt is {prompt!r}; it must not be empty.")
    check_writable(flags.out, f"--out is {flags.out}")


def make_mesh(flags: Flags, devices: list) -> Any:
    """The devices, as --split-height divides them."""
    from imagen_jax.config import MeshConfig
    from imagen_jax.parallel import mesh

    if len(devices) % flags.split_height:
        raise UsageError(
            f"--split-height is {flags.split_height}; it must divide the {len(devices)} devices."
        )
    return mesh.make_mesh(MeshConfig(spatial=flags.split_height), devices)


def run(flags: Flags) -> None:
    """Checks everything, embeds the prompts, paints, and writes what --out describes."""
    import jax

    from imagen_jax import cascade
    from imagen_jax.loading import open_stage
    from imagen_jax.parallel import distributed
    from imagen_jax.prompts import check_prompts, embed_prompts, read_prompts
    from imagen_jax.text.cache import EmbeddingCache
    from imagen_jax.text.tokenizer import one_line

    distributed.require_accelerator(allow_cpu=flags.allow_cpu)
    mesh = make_mesh(flags, jax.devices())
    paths = stage_paths(flags)
    directories = per_stage("embeddings", flags.embeddings, Path, len(paths))
    needs_encoder = not flags.embeddings
    stages = [
        open_stage(path, weights, needs_encoder=needs_encoder)
        for path, weights in zip(paths, stage_weights(flags, len(paths)), strict=True)
    ]
    settings = stage_settings(flags, [stage.config.sampling for stage in stages])
    steps = [cascade.Step(*pair) for pair in zip(stages, settings, strict=True)]
    cascade.check_order(steps, mesh)
    prompts = [one_line(prompt) for prompt in flags.prompts]
    if not flags.embeddings:
        check_prompts([stage.config for stage in stages], prompts)
        tell_what_is_left_out(flags, len(stages))
        texts = embed_prompts(stages, prompts, batch_size=flags.batch_size, mesh=mesh)
    else:
        texts = read_prompts(stages, prompts, [EmbeddingCache(d) for d in directories])
        tell_what_is_left_out(flags, len(stages))
    paint(flags, steps, texts, mesh)


def paint(flags: Flags, steps: list, texts: list, mesh: Any) -> None:
    """Paints stage by stage; the pictures of each batch are written before the next one starts."""
    from tqdm import tqdm

    from imagen_jax import cascade
    from imagen_jax.parallel.mesh import batch_starts
    from imagen_jax.results import Results

    starts = batch_starts(len(flags.prompts) * flags.num_images, flags.batch_size, mesh)
    settings = {
        "seed": flags.seed, "num_images": flags.num_images, "batch_size": starts.step,
        "split_height": flags.split_height, "devices": mesh.size,
    }  # fmt: skip
    results = Results(flags.out, texts[0].prompts, settings, steps, texts, resume=flags.resume)
    with tqdm(total=len(starts) * sum(s.settings.num_steps for s in steps), unit="step") as bar:
        painting = cascade.paint(
            steps, texts, seed=flags.seed, num_images=flags.num_images,
            batch_size=flags.batch_size, mesh=mesh, on_step=lambda _: bar.update(), keeper=results,
        )  # fmt: skip
        for step in steps:
            bar.set_description(f"{step.side} pixels")
            painted = next(painting)
    print("\n".join(map(str, results.finish(painted.pictures))))


def compile_only(flags: Flags) -> int:
    """Reports what --what of every stage takes of --topology; the exit code."""
    from imagen_jax.loading import load_config
    from imagen_jax.planning import calls
    from imagen_jax.planning.compile_only import run

    configs = [load_config(path) for path in stage_paths(flags)]
    settings = stage_settings(flags, [config.sampling for config in configs])

    def make_calls(devices: list) -> Iterator[calls.Call]:
        mesh = make_mesh(flags, devices)
        if flags.what == "embedding":
            yield from calls.prompt_embeddings(configs, flags.batch_size, mesh)
        else:
            for pair in zip(configs, settings, strict=True):
                yield calls.sampler(*pair, flags.batch_size, mesh)

    return run(make_calls, flags.compiling)


def main() -> None:
    with exit_on_usage_error():
        flags = parse_flags(
            lambda: tyro.cli(Flags, description=__doc__, prog="sample.py", args=sys.argv[1:])
        )
        check(flags)
        flags.compiling.prepare()
        if flags.compiling.compile_only:
            sys.exit(compile_only(flags))
        run(flags)


if __name__ == "__main__":
    main()
