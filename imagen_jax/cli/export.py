"""The command that writes a stage as others take it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from imagen_jax.cli.outputs import require_empty, require_other, require_suffix
from imagen_jax.config.choices import Dtype, Weights
from imagen_jax.errors import UsageError
from imagen_jax.storage.hub import stage_path

if TYPE_CHECKING:
    from imagen_jax.networks import Params

_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the newest weights of a training directory as one file, config in its header; or a
    stage or an adapter of DeepFloyd IF as diffusers reads it."""

    workdir: Annotated[Positional[str], arg(metavar="WORKDIR")]
    """Training directory of one stage, which may lie in a bucket (gs://...); or an exported
    file."""
    out: Annotated[Positional[Path], arg(metavar=f"OUT{_SUFFIX}")]
    """File to write; it is replaced whole or left alone. With --layout diffusers a directory, a new
    one or empty."""
    dtype: Dtype = "bfloat16"
    """Of the stored weights; bfloat16 takes half the space."""
    weights: Weights | None = None
    """Which: ema is what samples are made with, raw what the optimizer made. Unsaid, ema of a
    training directory, and what a file holds."""
    ema_length: float | None = None
    """Of a training directory with snapshots (`optimizer.power_ema`): the average of this length at
    the newest one, such as 0.15, in place of the EMA."""
    layout: Literal["stage", "diffusers"] = "stage"
    """diffusers: a pipeline's directory with U-Net and schedulers, of a stage that `convert
    deepfloyd-if` wrote, or of one that was trained from it. Of an adapter a file of a LoRA."""
    merged: bool = False
    """Of the training directory of an adapter: write the whole stage with the adapter in it."""

    def run(self) -> None:
        from imagen_jax.stored.adapters import is_adapter

        if self.ema_length is not None and self.layout == "diffusers":
            raise UsageError(
                f"--ema-length is {self.ema_length:g} and --layout diffusers; export a stage of "
                "that length first, and then that file."
            )
        of_adapter = is_adapter(stage_path(self.workdir))
        require_other(self.out, self.workdir, self._base() if of_adapter else "")
        if self.merged and not of_adapter:
            raise UsageError(f"--merged adds an adapter to its stage; {self.workdir} is none.")
        if self.ema_length is None and not self.merged and of_adapter:
            self._adapter()
        elif self.layout == "diffusers":
            self._for_diffusers()
        else:
            self._stage()

    def _base(self) -> str:
        """The stage that a training directory's adapter was trained beside."""
        from imagen_jax.checkpoints.directory import is_training_directory, read_config

        path = stage_path(self.workdir)
        return read_config(path).adapter.base if is_training_directory(path) else ""

    def _adapter(self) -> None:
        from imagen_jax.stored.adapters import open_adapter
        from imagen_jax.weights.adapter_file import save_adapter_file
        from imagen_jax.weights.deepfloyd_lora import save_lora

        require_suffix(self.out, _SUFFIX)
        weights = self.weights or "ema"
        adapter = open_adapter(stage_path(self.workdir), weights)
        if self.layout == "diffusers":
            save_lora(self.out, adapter.load(), adapter.config.scale, self.dtype)
        else:
            of = (adapter.config, adapter.fits, adapter.load())
            save_adapter_file(self.out, *of, self.dtype, weights)
        size = f"{self.out.stat().st_size / 1e6:.1f} MB"
        print(f"{self.out}: an adapter of rank {adapter.config.rank}, {size}")

    def _stage(self) -> None:
        from imagen_jax.stored.stages import load_weights
        from imagen_jax.weights.stage_file import save_stage_file

        require_suffix(self.out, _SUFFIX)
        rebuilt = {} if self.ema_length is None else self._rebuilt(self.ema_length)
        stage = load_weights(stage_path(self.workdir), self.weights)
        stage = dataclasses.replace(stage, params={**stage.params, **rebuilt})
        said = (stage.weights, stage.tokenizer)
        save_stage_file(self.out, stage.config, stage.params, self.dtype, *said)
        size = f"{self.out.stat().st_size / 1e6:.1f} MB"
        print(f"{self.out}: {stage.config.name}, {stage.weights} weights, {size}")

    def _rebuilt(self, length: float) -> "Params":
        """What is trained, as the average of --ema-length."""
        from imagen_jax.checkpoints.directory import is_training_directory
        from imagen_jax.checkpoints.power_ema import rebuild
        from imagen_jax.config import MeshConfig
        from imagen_jax.parallel.mesh import make_mesh

        path = stage_path(self.workdir)
        if self.weights == "raw" or not is_training_directory(path):
            raise UsageError(
                f"--ema-length is {length:g}; it makes an average of a training "
                "directory's snapshots, and takes neither a file nor --weights raw."
            )
        params, error = rebuild(path, make_mesh(MeshConfig()), length)
        print(f"length {length:g}, fitted within {error:.1%}")
        return params

    def _for_diffusers(self) -> None:
        from imagen_jax.storage.files import replacing_directory
        from imagen_jax.stored.stages import open_unet_params
        from imagen_jax.weights.deepfloyd_stage import export_deepfloyd_if

        require_empty(self.out)
        config, unet = open_unet_params(stage_path(self.workdir), self.weights)
        with replacing_directory(self.out) as place:
            export_deepfloyd_if(place, config, unet, self.dtype)
        print(f"{self.out}: {config.name}")
