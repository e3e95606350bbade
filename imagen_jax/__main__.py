"""Verbs of the package: python -m imagen_jax VERB --help"""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from imagen_jax.config import Dtype
from imagen_jax.errors import exit_on_usage_error

app = tyro.extras.SubcommandApp()


@app.command
def export(
    workdir: Positional[Path],
    out: Annotated[Positional[Path], arg(metavar="OUT.safetensors")],
    dtype: Dtype = "bfloat16",
) -> None:
    """Write the newest EMA weights of a training directory as one file, config in its header.

    Args:
        workdir: training directory of one stage.
        out: file to write; it is replaced whole or left alone.
        dtype: of the stored weights; bfloat16 takes half the space.
    """
    from imagen_jax.loading import load_stage
    from imagen_jax.weights.stage_file import save_stage_file

    stage = load_stage(workdir)
    save_stage_file(out, stage.config, stage.params, dtype)
    print(f"{out}: {stage.config.name}, {out.stat().st_size / 1e6:.1f} MB")


@app.command
def plot(workdirs: Positional[tuple[Path, ...]], out: Path = Path("loss.png")) -> None:
    """Draw the loss curves of training directories into one PNG.

    Args:
        workdirs: training directories, one panel each.
        out: PNG to write.
    """
    from imagen_jax.errors import UsageError
    from imagen_jax.pictures import save_png
    from imagen_jax.plots import loss_curves

    if not workdirs:
        raise UsageError("There is nothing to plot; name at least one training directory.")
    save_png(loss_curves(workdirs), out)
    print(out)


def main() -> None:
    with exit_on_usage_error():
        app.cli(prog="python -m imagen_jax", description=__doc__, args=sys.argv[1:])


if __name__ == "__main__":
    main()
