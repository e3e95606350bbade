"""Train one stage of the cascade.

    python train.py CONFIG --workdir DIR [--optimizer.learning_rate 3e-4 ...]

CONFIG is the name of a file in configs/; every field of it is a flag. The run writes its
config, checkpoints, TensorBoard scalars and sample grids to DIR, and goes on from the newest
checkpoint that it finds there.

    python train.py CONFIG --compile-only --topology v5e:16x16 [--num-slices 2] [--quick]

compiles the same step for TPUs that need not be there and says what it takes of them: memory,
work, what the chips send each other, and the step time that their peak rates allow; --json FILE
writes it too. It exits with code 1 if the step does not fit.
"""

import ast
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from imagen_jax.config import StageConfig, Weights
from imagen_jax.config_file import read_config_file
from imagen_jax.errors import UsageError, end_at_once, exit_on_usage_error, parse_flags
from imagen_jax.files import to_path
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.planning.options import CompileOptions

CONFIGS = Path(__file__).parent / "configs"


def known_configs() -> dict[str, str]:
    """Name -> docstring of every config; those of a directory are called DIRECTORY/NAME."""
    files = sorted(path for path in CONFIGS.rglob("*.py") if path.stem != "__init__")
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in files]
    return {name: _docstring(path) for name, path in zip(names, files, strict=True)}


def _docstring(path: Path) -> str:
    """Empty for what is no Python: only who asks for that config shall hear of it."""
    try:
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (SyntaxError, ValueError):
        return ""


def load_config(name: str) -> StageConfig:
    """The config of `configs/NAME.py`."""
    known = known_configs()
    if name not in known:
        raise UsageError(f"There is no config {name!r}; the configs are {', '.join(known)}.")
    return read_config_file(CONFIGS / f"{name}.py")


@dataclasses.dataclass(frozen=True)
class Flags:
    config: Annotated[StageConfig, tyro.conf.arg(name="")]
    compiling: Annotated[CompileOptions, tyro.conf.arg(name="")] = CompileOptions()
    what: Literal["step", "embedding"] = "step"
    """Of --compile-only: the training step, or the text encoder alone on a batch's captions."""
    workdir: str = ""
    """Training directory: made, or gone on from. It may lie in a bucket (gs://...)."""
    init_from: str = ""
    """A trained stage (training directory or exported file) whose weights a new run starts
    from; one that has a checkpoint goes on from that."""
    weights: Weights | None = None
    """Of --init-from: ema (what a training directory gives otherwise) or raw."""
    allow_change: tuple[str, ...] = ()
    """Fields that may differ from those of the run that is gone on with, such as
    optimizer.learning_rate or training.batch_size."""
    allow_changed_data: bool = False
    """Go on with other records than those that the run has seen so far: files that have changed,
    or copies of them with other times."""
    profile: str = ""
    """START:STOP, steps to profile into WORKDIR/profile: from START up to, without, STOP. The
    signal SIGUSR1 profiles the next few."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""


def steps_to_profile(window: str) -> range:
    """START:STOP -> the steps from START to STOP - 1; none for an empty text."""
    if not window:
        return range(0)
    start, _, stop = window.partition(":")
    if not (start.isdecimal() and stop.isdecimal() and 0 < int(start) < int(stop)):
        raise UsageError(
            f"--profile is {window!r}; it must be START:STOP, two steps with 0 < START < STOP."
        )
    return range(int(start), int(stop))


def parse(arguments: list[str]) -> Flags:
    """Config with its overrides, and what to do with it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print("Configs:")
        for name, docstring in known_configs().items():
            summary = docstring.partition("\n")[0]
            print(f"  {name:16s} {summary}")
        print("\npython train.py CONFIG --help lists the fields of one.")
        sys.exit(0 if arguments else 2)
    flags = parse_flags(
        lambda: tyro.cli(
            tyro.conf.AvoidSubcommands[Flags],
            default=Flags(config=load_config(arguments[0])),
            args=arguments[1:],
            prog=f"train.py {arguments[0]}",
            description=known_configs()[arguments[0]],
        )
    )
    if not flags.compiling.compile_only and flags.what != "step":
        raise UsageError(f"--what {flags.what} belongs to --compile-only, which is missing.")
    if flags.compiling.compile_only and (flags.workdir or flags.init_from or flags.profile):
        raise UsageError(
            "--compile-only trains nothing; leave --workdir, --init-from and --profile out."
        )
    if flags.weights and not flags.init_from:
        raise UsageError(f"--weights {flags.weights} belongs to --init-from, which is missing.")
    if not flags.compiling.compile_only and not flags.workdir:
        raise UsageError("--workdir is missing; name the training directory.")
    steps_to_profile(flags.profile)  # A mistake in it shows at once.
    return flags


def compile_only(flags: Flags) -> int:
    """Reports what one step takes of --topology; returns the exit code."""
    from imagen_jax.parallel.mesh import make_mesh
    from imagen_jax.planning import calls
    from imagen_jax.planning.compile_only import run

    config = flags.config

    def make_calls(devices: list) -> list[calls.Call]:
        mesh = make_mesh(config.mesh, devices)
        if flags.what == "embedding":
            return [calls.embedding(config, config.training.batch_size, mesh)]
        return [calls.training_step(config, mesh)]

    return run(make_calls, flags.compiling)


def main() -> None:
    with exit_on_usage_error():
        flags = parse(sys.argv[1:])
        flags.compiling.prepare()
        if flags.compiling.compile_only:
            sys.exit(compile_only(flags))
        # Only now: --help should not wait for JAX.
        from imagen_jax.parallel import distributed
        from imagen_jax.training.checkpoint import CannotSave
        from imagen_jax.training.host_memory import run_where_called
        from imagen_jax.training.loop import run

        run_where_called()
        distributed.start(flags.distributed)
        distributed.require_accelerator(allow_cpu=flags.allow_cpu)
        init_from = to_path(flags.init_from) if flags.init_from else None
        workdir, profile = to_path(flags.workdir), steps_to_profile(flags.profile)
        try:
            run(
                flags.config, workdir, init_from, flags.weights, flags.allow_change, profile,
                allow_changed_data=flags.allow_changed_data,
            )  # fmt: skip
        except CannotSave as error:
            end_at_once(error)


if __name__ == "__main__":
    main()
