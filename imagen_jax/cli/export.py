"""The command that writes a stage as others take it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from imagen_jax.cli.outputs import require_empty, require_suffix
from imagen_jax.config.choices import Dtype, Weights
from imagen_jax.storage.hub import stage_path

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
    layout: Literal["stage", "diffusers"] = "stage"
    """diffusers: a pipeline's directory with U-Net and schedulers, of a stage that `convert
    deepfloyd-if` wrote, or of one that was trained from it. Of an adapter a file of a LoRA."""
    merged: bool = False
    """Of the training directory of an adapter: write the whole stage with the adapter in it."""

    def run(self) -> None:
        from imagen_jax.stored.adapters import is_adapter

        if not self.merged and is_adapter(stage_path(self.workdir)):
            self._adapter()
        elif self.layout == "diffusers":
            self._for_diffusers()
        else:
            self._stage()

    def _adapter(self) -> None:
        from imagen_jax.stored.adapters import open_adapter
        from imagen_jax.weights.adapter_file import save_adapter_file
        from imagen_jax.weights.deepfloyd_lora import save_lora

        require_suffix(self.out, _SUFFIX)
        weights = self.weights or "ema"
        adapter = open_adapter(stage_path(self.workdir), weights)
        if self.layout == "diffusers":
            save_lora(self.out, adapter.load(), adapter.config.scale)
        else:
            of = (adapter.config, adapter.fits, adapter.load())
            save_adapter_file(self.out, *of, self.dtype, weights)
        size = f"{self.out.stat().st_size / 1e6:.1f} MB"
        print(f"{self.out}: an adapter of rank {adapter.config.rank}, {size}")

    def _stage(self) -> None:
        from imagen_jax.stored.stages import load_weights
        from imagen_jax.weights.stage_file import save_stage_file

        require_suffix(self.out, _SUFFIX)
        stage = load_weights(stage_path(self.workdir), self.weights)
        said = (stage.weights, stage.tokenizer)
        save_stage_file(self.out, stage.config, stage.params, self.dtype, *said)
        size = f"{self.out.stat().st_size / 1e6:.1f} MB"
        print(f"{self.out}: {stage.config.name}, {stage.weights} weights, {size}")

    def _for_diffusers(self) -> None:
        from imagen_jax.stored.stages import open_unet_params
        from imagen_jax.weights.deepfloyd_stage import export_deepfloyd_if

        require_empty(self.out)
        config, unet = open_unet_params(stage_path(self.workdir), self.weights)
        export_deepfloyd_if(self.out, config, unet, self.dtype)
        print(f"{self.out}: {config.name}")
