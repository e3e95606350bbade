"""Train one stage of the cascade.

    python train.py CONFIG --workdir DIR [--optimizer.learning_rate 3e-4 ...]

CONFIG is one of the names below, or a file of your own; every field of it is a flag. The run writes
its config, checkpoints, TensorBoard scalars and sample grids to DIR, and goes on from the newest
checkpoint that it finds there.

    python train.py tiny_64 --workdir runs/tiny
    python train.py tiny_64 --workdir runs/mine --data.source folder:DIR

The second one learns your own pictures, each beside a .txt of the same name with its captions.

    python train.py CONFIG --compile-only --topology v5e:16x16 [--num-slices 2] [--quick]

compiles the same step for TPUs that need not be there and says what it takes of them: memory,
work, what the chips send each other, and the step time that their peak rates allow; --json FILE
writes it too. It exits with code 1 if the step does not fit.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import tyro

from imagen_jax.cli.config_help import describe, list_configs
from imagen_jax.cli.given import check_given
from imagen_jax.cli.parsing import in_unicode, parse_flags
from imagen_jax.cli.program import command, ended_by_ctrl_c, load, with_command
from imagen_jax.cli.spellings import TRAIN, respell
from imagen_jax.cli.train_flags import (
    Flags,
    GivenFields,
    MeasuringFlags,
    TeacherFlags,
    check,
    steps_to_profile,
)
from imagen_jax.config import StageConfig
from imagen_jax.config.python_file import find_config, read_config_file
from imagen_jax.errors import end_at_once, exit_on_usage_error
from imagen_jax.parallel import compilation
from imagen_jax.storage.files import to_path
from imagen_jax.storage.hub import stage_path


def load_config(name: str) -> StageConfig:
    """The config of that name, or of a user's own file."""
    return read_config_file(find_config(name))


def parse(arguments: Sequence[str]) -> Flags:
    """Config with its overrides, and what to do with it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(with_command(__doc__, "train"))
        print(list_configs())
        print(f"\n{command('train')} CONFIG --help lists the fields of one.")
        sys.exit(0 if arguments else 2)
    name, *rest = in_unicode(arguments)
    rest = respell(rest, TRAIN)
    given = given_fields(rest)
    config = given.without_replaced(taught(given.with_method(load_config(name)), rest))
    flags = parse_flags(
        lambda: tyro.cli(
            tyro.conf.AvoidSubcommands[Flags],
            default=Flags(config=config),
            args=rest,
            prog=f"{command('train')} {name}",
            description=describe(find_config(name), config),
        )
    )
    check_given(rest, flags)
    check(flags)
    return flags


def taught(config: StageConfig, arguments: Sequence[str]) -> StageConfig:
    """The config of a student, where the arguments name its teacher; what it samples with follows
    from its steps, so that both are read before all other flags."""
    flags, _ = parse_flags(
        lambda: tyro.cli(
            TeacherFlags, args=list(arguments), return_unknown_args=True, add_help=False
        )
    )
    if not flags.teacher:
        return config
    from imagen_jax.training.students import student_of

    return student_of(config, flags.teacher, flags.steps[0])


def given_fields(arguments: Sequence[str]) -> GivenFields:
    """The fields of the config on which others depend, as far as the arguments name them."""
    given, _ = parse_flags(
        lambda: tyro.cli(
            GivenFields, args=list(arguments), return_unknown_args=True, add_help=False
        )
    )
    return given


def compile_only(flags: Flags) -> int:
    """Reports what one step takes of --topology; returns the exit code."""
    from imagen_jax.parallel.mesh import make_mesh
    from imagen_jax.planning import calls
    from imagen_jax.planning.compile_only import run

    config = flags.config

    def make_calls(devices: list) -> Iterable[calls.Call]:
        mesh = make_mesh(config.mesh, devices)
        if flags.what == "embedding":
            return [calls.embedding(config, config.training.batch_size, mesh)]
        return calls.training_steps(config, mesh)

    return run(make_calls, flags.compiling)


def open_measuring(flags: MeasuringFlags) -> Any:
    """What the run measures of pictures that it paints; None where nothing is."""
    from imagen_jax.evaluation.feature_files import open_features
    from imagen_jax.evaluation.while_training import open_measure
    from imagen_jax.parallel import distributed
    from imagen_jax.training.painted import Measuring

    if not flags.every:
        return None
    reference = open_features(flags.reference)
    measure = distributed.leader_does(
        lambda: open_measure(reference, flags.weights, flags.measures, flags.pictures)
    )
    return Measuring(flags.every, flags.pictures, measure)


def main(arguments: Sequence[str] | None = None) -> None:
    with exit_on_usage_error(), ended_by_ctrl_c():
        flags = parse(sys.argv[1:] if arguments is None else arguments)
        flags.compiling.prepare()
        if flags.compiling.compile_only:
            sys.exit(compile_only(flags))
        compilation.prepare(announce=True)
        _train(flags)


def _train(flags: Flags) -> None:
    """Only here is JAX imported: --help should not wait for it."""
    load("imagen_jax.training.loop")
    from imagen_jax.checkpoints.checkpoint import CannotSave
    from imagen_jax.parallel import distributed
    from imagen_jax.parallel.host_memory import run_where_called
    from imagen_jax.training.loop import run
    from imagen_jax.training.students import train_students

    run_where_called()
    distributed.start(flags.distributed)
    distributed.require_accelerator(allow_cpu=flags.allow_cpu)
    init_from = stage_path(flags.init_from) if flags.init_from else None
    options = {
        "init_from": init_from,
        "weights": flags.weights,
        "allow_change": flags.allow_change,
        "profile": steps_to_profile(flags.profile),
        "allow_changed_data": flags.allow_changed_data,
        "measuring": open_measuring(flags.measuring),
    }
    workdir, steps = to_path(flags.workdir), flags.teaching.steps
    try:
        if len(steps) > 1:
            train_students(flags.config, workdir, steps, **options)
        else:
            run(flags.config, workdir, **options)
    except CannotSave as error:
        end_at_once(error)
