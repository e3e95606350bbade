"""Verbs of the package: python -m imagen_jax VERB --help"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from imagen_jax.config import Dtype, Weights
from imagen_jax.errors import UsageError, exit_on_usage_error, parse_flags
from imagen_jax.files import to_path

_SUFFIX = ".safetensors"


def _require_suffix(out: Path, suffix: str) -> None:
    """A slip must not replace a config or a picture."""
    if out.suffix != suffix or out.is_dir():
        raise UsageError(f"{out} cannot be written; name a file that ends with {suffix}.")


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the newest weights of a training directory as one file, config in its header."""

    workdir: Annotated[Positional[str], arg(metavar="WORKDIR")]
    """Training directory of one stage, which may lie in a bucket (gs://...)."""
    out: Annotated[Positional[Path], arg(metavar=f"OUT{_SUFFIX}")]
    """File to write; it is replaced whole or left alone."""
    dtype: Dtype = "bfloat16"
    """Of the stored weights; bfloat16 takes half the space."""
    weights: Weights = "ema"
    """Which: ema is what samples are made with, raw what the optimizer made."""

    def run(self) -> None:
        from imagen_jax.loading import load_stage
        from imagen_jax.weights.stage_file import save_stage_file

        _require_suffix(self.out, _SUFFIX)
        stage = load_stage(to_path(self.workdir), self.weights)
        save_stage_file(self.out, stage.config, stage.params, self.dtype, stage.weights)
        size = f"{self.out.stat().st_size / 1e6:.1f} MB"
        print(f"{self.out}: {stage.config.name}, {stage.weights} weights, {size}")


@dataclasses.dataclass(frozen=True)
class Convert:
    """Write downloaded weights as one file: an encoder that stages read, or a stage."""

    kind: Positional[Literal["t5", "deepfloyd-if"]]
    """t5: a T5 text encoder from a Hugging Face directory, for text_encoder.source.
    deepfloyd-if: stage I or II of DeepFloyd IF from its pipeline's directory, for sample.py."""
    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """For t5 the directory with config.json and the weights; for deepfloyd-if the pipeline's,
    with unet, scheduler, text_encoder and tokenizer."""
    out: Annotated[Positional[Path], arg(metavar=f"OUT{_SUFFIX}")]
    """File to write; it is replaced whole or left alone."""
    dtype: Dtype = "bfloat16"
    """Of the written weights; bfloat16 takes half the space. A stage of DeepFloyd IF computes in
    it too."""
    text_encoder: Path | None = None
    """For deepfloyd-if: another directory with text_encoder and tokenizer, where DIR has none."""

    def run(self) -> None:
        _require_suffix(self.out, _SUFFIX)
        if self.directory.resolve() in self.out.resolve().parents:
            raise UsageError(f"{self.out} lies in the directory that is read; name another place.")
        if self.kind == "t5" and self.text_encoder is not None:
            raise UsageError(f"--text-encoder is {self.text_encoder}; it is for deepfloyd-if only.")
        if self.kind == "deepfloyd-if":
            self._deepfloyd_if()
        else:
            self._t5()

    def _deepfloyd_if(self) -> None:
        from imagen_jax.weights.deepfloyd_stage import convert_deepfloyd_if, licence

        text_from = self.text_encoder or self.directory
        config = convert_deepfloyd_if(self.directory, self.out, self.dtype, text_from)
        print(f"{self.out}: {config.name}, {self.out.stat().st_size / 1e6:.1f} MB")
        print(licence(self.directory))

    def _t5(self) -> None:
        from imagen_jax.weights.t5_names import convert_t5

        sizes = dataclasses.asdict(convert_t5(self.directory, self.out, self.dtype))
        print(f"{self.out}: {self.out.stat().st_size / 1e6:.1f} MB; for a stage that reads it:")
        flags = [f"--text-encoder.t5.{name.replace('_', '-')} {x}" for name, x in sizes.items()
                 if name not in ("dtype", "remat")]  # fmt: skip
        print(" ".join([f"--text-encoder.source {self.out}", *flags]))


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the loss curves of training directories into one PNG."""

    workdirs: Positional[tuple[str, ...]]
    """Training directories, one panel each; they may lie in a bucket (gs://...)."""
    out: Path = Path("loss.png")
    """PNG to write."""

    def run(self) -> None:
        from imagen_jax.pictures import save_png
        from imagen_jax.plots import loss_curves

        if not self.workdirs:
            raise UsageError("There is nothing to plot; name at least one training directory.")
        _require_suffix(self.out, ".png")
        save_png(loss_curves([to_path(workdir) for workdir in self.workdirs]), self.out)
        print(self.out)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes of memory that a training step needs per chip, by arithmetic; see also train.py's
    --compile-only, which knows exactly and takes minutes."""

    config: Annotated[Positional[Path], arg(metavar="CONFIG")]
    """A config file such as configs/tiny_64.py, a training directory or an exported file."""
    chips: int
    """Chips that the step runs on."""

    def run(self) -> None:
        from imagen_jax.loading import load_config
        from imagen_jax.planning.estimate import estimate, to_text

        config = load_config(self.config)
        print(to_text(config, self.chips, estimate(config, self.chips)))


def main() -> None:
    with exit_on_usage_error():
        verb = parse_flags(
            lambda: tyro.cli(
                Export | Convert | Plot | Estimate,
                prog="python -m imagen_jax",
                description=__doc__,
                args=sys.argv[1:],
            )
        )
        verb.run()


if __name__ == "__main__":
    main()
