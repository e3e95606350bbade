"""Train one stage of the cascade.

    python train.py CONFIG --workdir DIR [--optimizer.learning_rate 3e-4 ...]

CONFIG is the name of a file in configs/; every field of it is a flag. The run writes its
config, checkpoints, TensorBoard scalars and sample grids to DIR, and goes on from the newest
checkpoint that it finds there.
"""

import ast
import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError, exit_on_usage_error, parse_flags
from imagen_jax.parallel.machine import DistributedFlags

CONFIGS = Path(__file__).parent / "configs"


def known_configs() -> dict[str, str]:
    """Name -> first line of the docstring of every config."""
    files = sorted(path for path in CONFIGS.glob("*.py") if path.stem != "__init__")
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in files}
    return {name: doc.partition("\n")[0] for name, doc in docs.items()}


def load_config(name: str) -> StageConfig:
    """The config of `configs/NAME.py`."""
    known = known_configs()
    if name not in known:
        raise UsageError(f"There is no config {name!r}; the configs are {', '.join(known)}.")
    return importlib.import_module(f"configs.{name}").get_config()


def parse(arguments: list[str]) -> Any:
    """The flags of a config's run, with its overrides in `config`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print("Configs:")
        for name, summary in known_configs().items():
            print(f"  {name:16s} {summary}")
        print("\npython train.py CONFIG --help lists the fields of one.")
        sys.exit(0 if arguments else 2)
    config = load_config(arguments[0])

    @dataclasses.dataclass(frozen=True)
    class Flags:
        config: Annotated[StageConfig, tyro.conf.arg(name="")]
        workdir: Path
        """Training directory: made, or gone on from."""
        init_from: Path | None = None
        """A trained stage (training directory or exported file) whose weights a new run starts
        from."""
        distributed: DistributedFlags = DistributedFlags()
        allow_cpu: bool = False
        """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    return parse_flags(
        lambda: tyro.cli(
            tyro.conf.AvoidSubcommands[Flags],
            default=Flags(config=config, workdir=tyro.MISSING),
            args=arguments[1:],
            prog=f"train.py {arguments[0]}",
            description=sys.modules[f"configs.{arguments[0]}"].__doc__,
        )
    )


def main() -> None:
    with exit_on_usage_error():
        flags = parse(sys.argv[1:])
        # Only now: --help should not wait for JAX.
        from imagen_jax.parallel import distributed
        from imagen_jax.training.loop import run

        distributed.start(flags.distributed)
        distributed.require_accelerator(allow_cpu=flags.allow_cpu)
        run(flags.config, flags.workdir, flags.init_from)


if __name__ == "__main__":
    main()
