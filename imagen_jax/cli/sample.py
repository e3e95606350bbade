"""Paint pictures from prompts.

    python sample.py "a red apple"
    python sample.py "a cat face" "a slice of pizza, noto style" --num-images 4 --seed 1
    python sample.py "a rocket" --base runs/base --sr256 runs/sr256

Without stages of your own it uses the small cascade that ships with the package; after a stage
of your own come only those that you name. Pictures of every stage, a contact sheet and
manifest.json go to --out.

    python sample.py --compile-only --topology v5e:2x4 --base tiny_64

compiles each stage's denoising steps for TPUs that need not be there and says what they take
of them. It paints nothing; a stage may then also be a config, without weights.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from imagen_jax.cli.parsing import parse_flags
from imagen_jax.cli.per_stage import for_stages
from imagen_jax.cli.program import command, with_command
from imagen_jax.cli.sample_flags import (
    Flags,
    SamplingFlags,
    check,
    stage_paths,
    tell_of_missing_quotes,
    tell_what_is_left_out,
)
from imagen_jax.cli.spellings import SAMPLE, respell
from imagen_jax.config import SamplingConfig
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.parallel import compilation


def parse(arguments: Sequence[str]) -> Flags:
    """The flags, each of them checked as far as nothing is loaded for it."""
    arguments = respell(arguments, SAMPLE)
    flags = parse_flags(
        lambda: tyro.cli(
            tyro.conf.OmitArgPrefixes[Flags],
            description=with_command(__doc__, "sample"),
            prog=command("sample"),
            args=arguments,
        )
    )
    check(flags)
    return flags


def step_settings(steps: int | str) -> dict[str, Any]:
    """Settings for `--steps` of one stage: a number, or a public set of steps of a chain."""
    from imagen_jax.diffusion.chain import SETS, sections

    if isinstance(steps, int):
        return {"num_steps": steps, "timesteps": ()}
    if steps not in SETS:
        raise UsageError(
            f"--steps is {steps!r}; it must be a whole number or, for a stage of DeepFloyd IF, one "
            f"of {', '.join(SETS)}."
        )
    chosen = sections(SETS[steps])
    return {"num_steps": len(chosen), "timesteps": chosen}


def stage_settings(flags: SamplingFlags, defaults: list[SamplingConfig]) -> list[SamplingConfig]:
    """What each stage samples with: its config's defaults, changed by flags."""
    fields = {
        "--sampler": ("sampler", flags.sampler),
        "--guidance": ("guidance_scale", flags.guidance),
        "--thresholding": ("thresholding", flags.thresholding),
        "--aug-level": ("aug_level", flags.aug_level),
    }
    steps = for_stages("--steps", flags.steps, len(defaults))
    changes = [{} if chosen is None else step_settings(chosen) for chosen in steps]
    for flag, (field, values) in fields.items():
        for change, value in zip(changes, for_stages(flag, values, len(defaults)), strict=True):
            if value is not None:
                change[field] = value
    return [dataclasses.replace(d, **change) for d, change in zip(defaults, changes, strict=True)]


def make_mesh(flags: Flags, devices: list) -> Any:
    """The devices, as --split-height divides them."""
    from imagen_jax.config import MeshConfig
    from imagen_jax.parallel import mesh

    split = flags.devices.split_height
    if len(devices) % split:
        raise UsageError(f"--split-height is {split}; it must divide the {len(devices)} devices.")
    return mesh.make_mesh(MeshConfig(spatial=split), devices)


def run(flags: Flags) -> None:
    """Checks everything, embeds the prompts, paints, and writes what --out describes."""
    import jax

    from imagen_jax.parallel import distributed
    from imagen_jax.pipeline import painting
    from imagen_jax.pipeline.prompts import check_prompts, embed_prompts, read_prompts
    from imagen_jax.stored.stages import open_stage
    from imagen_jax.text.cache import EmbeddingCache
    from imagen_jax.text.tokenizer import one_line

    distributed.require_accelerator(allow_cpu=flags.devices.allow_cpu)
    mesh = make_mesh(flags, jax.devices())
    paths = stage_paths(flags.stages)
    directories = for_stages("--embeddings", flags.stages.embeddings, len(paths))
    weights = for_stages("--weights", flags.stages.weights, len(paths))
    needs_encoder = not flags.stages.embeddings
    stages = [
        open_stage(path, which, needs_encoder=needs_encoder)
        for path, which in zip(paths, weights, strict=True)
    ]
    settings = stage_settings(flags.sampling, [stage.config.sampling for stage in stages])
    steps = [painting.SampledStage(*pair) for pair in zip(stages, settings, strict=True)]
    painting.check_order(steps, mesh)
    batch_size = flags.devices.batch_size
    prompts = [one_line(prompt) for prompt in flags.prompts]
    if needs_encoder:
        check_prompts([stage.config for stage in stages], prompts)
        tell_what_is_left_out(flags.stages, len(stages))
        texts = embed_prompts(stages, prompts, batch_size=batch_size, mesh=mesh)
    else:
        texts = read_prompts(stages, prompts, [EmbeddingCache(d) for d in directories])
        tell_what_is_left_out(flags.stages, len(stages))
    paint(flags, steps, texts, mesh)


def paint(flags: Flags, steps: list, texts: list, mesh: Any) -> None:
    """Paints stage by stage; the pictures of each batch are written before the next one starts."""
    from imagen_jax.parallel.mesh import batch_starts
    from imagen_jax.pipeline import painting
    from imagen_jax.pipeline.results import Results
    from imagen_jax.progress import StepBar

    seed, num_images = flags.pictures.seed, flags.pictures.num_images
    starts = batch_starts(len(flags.prompts) * num_images, flags.devices.batch_size, mesh)
    settings = {
        "seed": seed, "num_images": num_images, "batch_size": starts.step,
        "split_height": flags.devices.split_height, "devices": mesh.size,
    }  # fmt: skip
    output = flags.output
    results = Results(output.out, texts[0].prompts, settings, steps, texts, resume=output.resume)
    stages = painting.paint(
        steps, texts, seed=seed, num_images=num_images, batch_size=flags.devices.batch_size,
        mesh=mesh, on_step=lambda _: bar.step(), keeper=results,
    )  # fmt: skip
    for step in steps:
        with StepBar(len(starts) * step.settings.num_steps, f"{step.side} pixels") as bar:
            painted = next(stages)
    print("\n".join(map(str, results.finish(painted.pictures))))


def compile_only(flags: Flags) -> int:
    """Reports what --what of every stage takes of --topology; the exit code."""
    from imagen_jax.planning import calls
    from imagen_jax.planning.compile_only import run
    from imagen_jax.stored.stages import load_config

    configs = [load_config(path) for path in stage_paths(flags.stages)]
    settings = stage_settings(flags.sampling, [config.sampling for config in configs])
    batch_size = flags.devices.batch_size

    def make_calls(devices: list) -> Iterator[calls.Call]:
        mesh = make_mesh(flags, devices)
        if flags.compiling.what == "embedding":
            yield from calls.prompt_embeddings(configs, batch_size, mesh)
        else:
            for pair in zip(configs, settings, strict=True):
                yield calls.sampler(*pair, batch_size, mesh)

    return run(make_calls, flags.compiling)


def main(arguments: Sequence[str] | None = None) -> None:
    with exit_on_usage_error():
        flags = parse(sys.argv[1:] if arguments is None else arguments)
        flags.compiling.prepare()
        if flags.compiling.compile_only:
            sys.exit(compile_only(flags))
        compilation.prepare(announce=True)
        tell_of_missing_quotes(flags.prompts)
        run(flags)
