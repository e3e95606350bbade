"""Paint pictures from prompts.

    python sample.py "a red apple"
    python sample.py "a cat face" "a slice of pizza, noto style" --num-images 4 --seed 1
    python sample.py "a rocket" --base runs/base --sr256 runs/sr256 --sr1024 none

Without stages of your own it uses the small cascade that ships with the package. Pictures of
every stage, a contact sheet and manifest.json go to --out.

    python sample.py --compile-only --topology v5e:2x4 --base configs/tiny_64.py --sr256 none

compiles each stage's denoising steps for TPUs that need not be there and says what they take
of them. It paints nothing; a stage may then also be a config file, without weights.
"""

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from imagen_jax.config import SamplingConfig
from imagen_jax.errors import UsageError, exit_on_usage_error, parse_flags
from imagen_jax.files import AnyPath, absolute, check_writable, to_path, write_text
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
    sr256: str = SHIPPED
    """64->256 stage, or `none` to stop before it."""
    sr1024: str = SHIPPED
    """256->1024 stage, or `none` to stop before it."""
    steps: str = ""
    """Denoising steps: one number for all stages, or one per stage as 64,32,16. A stage of
    DeepFloyd IF also takes the name of a set of its steps, such as smart50. Like the next four
    flags it defaults to what each stage's config says."""
    sampler: str = ""
    """ancestral, ddim or dpm++."""
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
    out: Path = Path("out")
    """Directory for the pictures."""
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""
    compiling: Annotated[CompileOptions, tyro.conf.arg(name="")] = CompileOptions()


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
    """The files or directories of the stages to run, from the base up."""
    paths = []
    for name in STAGES:
        value = getattr(flags, name)
        if value == NONE:
            break
        paths.append(shipped_stage(name) if value == SHIPPED else to_path(value))
    if not paths:
        raise UsageError(f"--base is {NONE!r}; a cascade starts with a base stage.")
    for name in STAGES[len(paths) + 1 :]:
        if getattr(flags, name) not in (NONE, SHIPPED):
            raise UsageError(
                f"--{name} is {getattr(flags, name)!r}, but --{STAGES[len(paths)]} is {NONE!r}, "
                "which ends the cascade before it."
            )
    return paths


def check(flags: Flags) -> None:
    """Raises a UsageError for what can be said before anything is loaded."""
    for name in ("num_images", "batch_size", "split_height"):
        if getattr(flags, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {getattr(flags, name)}; it must be at least 1.")
    if not 0 <= flags.seed < 2**32:
        raise UsageError(f"--seed is {flags.seed}; it must lie between 0 and {2**32 - 1}.")
    if flags.compiling.compile_only:
        return
    if not flags.prompts:
        raise UsageError('There is no prompt; give at least one, such as "a red apple".')
    for prompt in flags.prompts:
        if not prompt.strip():
            raise UsageError(f"A prompt is {prompt!r}; it must not be empty.")
    check_writable(flags.out, f"--out is {flags.out}")


def file_stem(index: int, prompt: str, picture: int) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40]
    return f"{index:02d}-{words}-{picture}"


def manifest(flags: Flags, steps: list, files: list[list[str]]) -> dict[str, Any]:
    """All that made the pictures: prompts, seed, stages with their settings, versions."""
    from imagen_jax.cascade import digest
    from imagen_jax.training.directory import package_versions

    count = flags.num_images
    pictures = [
        {"prompt": flags.prompts[i // count], "picture": i % count, "files": names}
        for i, names in enumerate(files)
    ]
    stages = [
        {
            "name": step.stage.config.name,
            "origin": absolute(step.stage.origin).name,
            "sha256": digest(step.stage.params),
            "sampling": dataclasses.asdict(step.settings),
        }
        for step in steps
    ]
    return {
        "seed": flags.seed, "pictures": pictures, "stages": stages, "versions": package_versions()
    }  # fmt: skip


def save_contact_sheet(flags: Flags, pictures: Any) -> None:
    """One row per prompt, or rows of six prompts where each has one picture."""
    from imagen_jax.pictures import grid, save_png

    captions = [prompt for prompt in flags.prompts for _ in range(flags.num_images)]
    columns = flags.num_images if flags.num_images > 1 else 6
    starts = range(0, len(captions), columns)
    sheet = grid(
        [list(pictures[i : i + columns]) for i in starts],
        captions=[captions[i : i + columns] for i in starts],
        cell=max(128, min(256, pictures.shape[1])),
    )
    save_png(sheet, flags.out / "contact_sheet.png")


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
    """Loads the stages, paints, and writes what --out describes."""
    import jax
    from tqdm import tqdm

    from imagen_jax import cascade
    from imagen_jax.loading import load_stage
    from imagen_jax.parallel import distributed
    from imagen_jax.pictures import save_png

    distributed.require_accelerator(allow_cpu=flags.allow_cpu)
    mesh = make_mesh(flags, jax.devices())
    stages = [load_stage(path) for path in stage_paths(flags)]
    settings = stage_settings(flags, [stage.config.sampling for stage in stages])
    steps = [cascade.Step(*pair) for pair in zip(stages, settings, strict=True)]
    cascade.check_order(steps)
    cascade.check_prompts(steps, flags.prompts)
    stems = [
        file_stem(index, prompt, picture)
        for index, prompt in enumerate(flags.prompts)
        for picture in range(flags.num_images)
    ]
    batches = len(cascade.batch_starts(len(stems), flags.batch_size, mesh))
    files: list[list[str]] = [[] for _ in stems]
    with tqdm(total=batches * sum(s.num_steps for s in settings), unit="step") as bar:
        painted = cascade.paint(
            steps, flags.prompts, seed=flags.seed, num_images=flags.num_images,
            batch_size=flags.batch_size, mesh=mesh, on_step=lambda _: bar.update(),
        )  # fmt: skip
        for step in steps:
            bar.set_description(f"{step.side} pixels")
            pictures = next(painted)
            for stem, picture, names in zip(stems, pictures, files, strict=True):
                names.append(f"{stem}-{step.side}.png")
                save_png(picture, flags.out / names[-1])
    save_contact_sheet(flags, pictures)
    write_text(flags.out / "manifest.json", json.dumps(manifest(flags, steps, files), indent=2))
    print("\n".join(str(flags.out / names[-1]) for names in files))


def compile_only(flags: Flags) -> int:
    """Reports what the denoising steps of every stage take of --topology; the exit code."""
    from imagen_jax.loading import load_config
    from imagen_jax.planning import calls
    from imagen_jax.planning.compile_only import run

    configs = [load_config(path) for path in stage_paths(flags)]
    settings = stage_settings(flags, [config.sampling for config in configs])
    pairs = list(zip(configs, settings, strict=True))
    return run(
        lambda devices: (
            calls.sampler(*pair, flags.batch_size, make_mesh(flags, devices)) for pair in pairs
        ),
        flags.compiling,
    )


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
