"""Paint pictures from prompts.

    python sample.py "a red apple"
    python sample.py "a cat face" "a slice of pizza, noto style" --num-images 4 --seed 1
    python sample.py "a rocket" --base runs/base --sr256 runs/sr256
    python sample.py --classes 3,7 --base runs/classes
    python sample.py "a yellow car" --aspect 3:2
    python sample.py "a green apple" --image apple.png --strength 0.6
    python sample.py --image small.png --base none
    python sample.py "a red apple" --base runs/maps --sketch lines.png

Without stages of your own it uses the small cascade that ships with the package, for prompts alone
the student of its base; after a stage of your own come only those that you name. Pictures of every
stage, a contact sheet and manifest.json go to --out.

    python sample.py --compile-only --topology v5e:2x4 --base tiny_64

compiles each stage's denoising steps for TPUs that need not be there and says what they take
of them. It paints nothing; a stage may then also be a config, without weights.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro

from imagen_jax.cli.again import kept, with_those_of_manifest
from imagen_jax.cli.given import check_given
from imagen_jax.cli.parsing import in_unicode, parse_flags
from imagen_jax.cli.per_stage import for_stages
from imagen_jax.cli.program import command, load, with_command
from imagen_jax.cli.prompts_file import read_prompts_file
from imagen_jax.cli.sample_flags import (
    Flags,
    SamplingFlags,
    check,
    tell_of_missing_quotes,
    with_base,
)
from imagen_jax.cli.spellings import SAMPLE, respell
from imagen_jax.cli.stage_flags import (
    CascadeFlags,
    StageFlags,
    adapters_of,
    check_adapters,
    stage_names,
    stage_paths,
    tell_what_is_left_out,
)
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.parallel import compilation
from imagen_jax.storage.hub import stage_path


def arguments_of(arguments: Sequence[str]) -> list[str]:
    """The arguments as they are called here, after those of --from-manifest."""
    return with_those_of_manifest(respell(in_unicode(arguments), SAMPLE))


def parse(arguments: Sequence[str]) -> Flags:
    """The flags, each of them checked as far as nothing is loaded for it."""
    flags = parse_flags(
        lambda: tyro.cli(
            Flags,
            description=with_command(__doc__, "sample"),
            prog=command("sample"),
            args=arguments_of(arguments),
        )
    )
    check(flags)
    check_given(respell(arguments, SAMPLE), flags)  # What a manifest says may be said anew.
    return with_base(flags)


def step_settings(steps: int | str) -> dict[str, Any]:
    """Settings for `--steps` of one stage: a number, or a public set of steps of a chain."""
    from imagen_jax.diffusion.chain import SETS, sections

    if isinstance(steps, int):
        return {"num_steps": steps}
    if steps not in SETS:
        raise UsageError(
            f"--steps is {steps!r}; it must be a whole number or, for a stage of DeepFloyd IF, one "
            f"of {', '.join(SETS)}."
        )
    chosen = sections(SETS[steps])
    return {"num_steps": len(chosen), "timesteps": chosen}


def settings_of(flags: SamplingFlags, stages: int) -> dict[str, list[Any]]:
    """Field of `SamplingConfig` -> its value for each stage, None for what its config says."""
    given = {
        "sampler": ("--sampler", flags.sampler),
        "guidance_scale": ("--guidance", flags.guidance),
        "picture_guidance_scale": ("--picture-guidance", flags.picture_guidance),
        "thresholding": ("--thresholding", flags.thresholding),
        "aug_level": ("--aug-level", flags.aug_level),
    }
    changes = {field: for_stages(flag, values, stages) for field, (flag, values) in given.items()}
    steps = for_stages("--steps", flags.steps, stages)
    chosen = [{} if value is None else step_settings(value) for value in steps]
    changes |= {field: [c.get(field) for c in chosen] for field in ("num_steps", "timesteps")}
    return changes


def call_of(flags: Flags, stages: int) -> dict[str, Any]:
    """What a call of a cascade takes beside its prompts."""
    edit = flags.edit
    return {
        "classes": flags.classes,
        "num_images": edit.variations or flags.pictures.num_images,
        "seed": flags.pictures.seed,
        "size": flags.pictures.size or None,
        "aspect": flags.pictures.aspect or None,
        "batch_size": flags.devices.batch_size,
        "tile": flags.devices.tile or None,
        "image": edit.image or None,
        "mask": edit.mask or None,
        "extend": edit.extend or None,
        **flags.shown.arguments(),
        **flags.steering.arguments(stages),
        **edit.settings(stages),
        **settings_of(flags.sampling, stages),
    }


def open_stages(
    flags: CascadeFlags, *, enlarges: bool = False
) -> tuple[list[Any], Callable[[Sequence[str]], list[Any]] | None]:
    """The stages, opened, and what reads the embeddings of prompts for them from --embeddings;
    None where the stages' own text encoders make them.

    Args:
        enlarges: as in `stage_names`.
    """
    from imagen_jax.pipeline.prompts import read_prompts
    from imagen_jax.stored.adapters import open_adapter
    from imagen_jax.stored.stages import open_stage
    from imagen_jax.text.cache import EmbeddingCache

    flags = flags if isinstance(flags, StageFlags) else StageFlags(**vars(flags))
    paths = stage_paths(flags, enlarges=enlarges)
    names = stage_names(flags, enlarges=enlarges)
    check_adapters(flags, names)
    directories = for_stages("--embeddings", flags.embeddings, len(paths))
    weights = for_stages("--weights", flags.weights, len(paths))
    added = [
        [(open_adapter(stage_path(x)), weight) for x, weight in adapters_of(flags, name)]
        for name in names
    ]
    stages = [
        open_stage(path, which, needs_encoder=not flags.embeddings, adapters=adapters)
        for path, which, adapters in zip(paths, weights, added, strict=True)
    ]
    if not flags.embeddings:
        return stages, None
    return stages, lambda prompts: read_prompts(
        stages, prompts, [EmbeddingCache(directory) for directory in directories]
    )


def make_mesh(flags: Flags, devices: list) -> Any:
    """The devices, as --split-height divides them."""
    from imagen_jax.config import MeshConfig
    from imagen_jax.parallel import mesh

    split = flags.devices.split_height
    if len(devices) % split:
        raise UsageError(f"--split-height is {split}; it must divide the {len(devices)} devices.")
    return mesh.make_mesh(MeshConfig(spatial=split), devices)


def run(flags: Flags, arguments: Sequence[str]) -> None:
    """Checks everything, embeds the prompts, paints, and writes what --out describes.

    Args:
        arguments: that the manifest keeps.
    """
    load("imagen_jax.pipeline.cascade")
    import jax

    from imagen_jax.parallel import distributed
    from imagen_jax.pipeline import painting
    from imagen_jax.pipeline.cascade import Cascade
    from imagen_jax.pipeline.steps import sampled_stages
    from imagen_jax.text.tokenizer import one_line

    distributed.start(flags.distributed)
    distributed.require_accelerator(allow_cpu=flags.devices.allow_cpu)
    mesh = make_mesh(flags, jax.devices())
    enlarges = bool(flags.edit.image)
    stages, stored_prompts = open_stages(flags.stages, enlarges=enlarges)
    painting.check_order(sampled_stages(stages, {}), mesh, given=enlarges)
    cascade = Cascade(stages, mesh=mesh, keep="one", stored_prompts=stored_prompts)
    prompts, each = flags.prompts, None
    if flags.steering.prompts_file:
        prompts, each = read_prompts_file(flags.steering.prompts_file)
    prompts = list(map(one_line, prompts))
    tell_what_is_left_out(flags.stages, stage_names(flags.stages, enlarges=enlarges)[-1])
    files = cascade.write(
        flags.output.out,
        prompts,
        resume=flags.output.resume,
        like=flags.output.from_manifest or None,
        arguments=arguments,
        preview=flags.output.preview,
        each=each,
        **call_of(flags, len(stages)),
    )
    print("\n".join(map(str, files)))


def compile_only(flags: Flags) -> int:
    """Reports what --what of every stage takes of --topology; the exit code."""
    from imagen_jax.pipeline.arguments import changed_settings
    from imagen_jax.pipeline.sizes import stage_sizes
    from imagen_jax.pipeline.steps import check_tile
    from imagen_jax.planning import calls
    from imagen_jax.planning.compile_only import run
    from imagen_jax.stored.stages import load_config

    configs = [load_config(path) for path in stage_paths(flags.stages, enlarges=True)]
    check_tile(flags.devices.tile or None, configs, flags.devices.split_height)
    defaults = [config.sampling for config in configs]
    settings = changed_settings(defaults, settings_of(flags.sampling, len(configs)))
    sizes = stage_sizes(configs, flags.pictures.size or None, flags.pictures.aspect or None)
    batch_size, tile = flags.devices.batch_size, flags.devices.tile or None

    def make_calls(devices: list) -> Iterator[calls.Call]:
        mesh = make_mesh(flags, devices)
        if flags.compiling.what == "embedding":
            yield from calls.prompt_embeddings(configs, batch_size, mesh)
        else:
            for config, chosen, size in zip(configs, settings, sizes, strict=True):
                yield calls.sampler(config, chosen, batch_size, mesh, size, tile)

    return run(make_calls, flags.compiling)


def main(arguments: Sequence[str] | None = None) -> None:
    with exit_on_usage_error():
        arguments = sys.argv[1:] if arguments is None else arguments
        flags = parse(arguments)
        flags.compiling.prepare()
        if flags.compiling.compile_only:
            sys.exit(compile_only(flags))
        compilation.prepare(announce=True)
        tell_of_missing_quotes(flags.prompts)
        run(flags, kept(arguments_of(arguments)))
