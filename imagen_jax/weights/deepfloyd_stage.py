"""A stage of DeepFloyd IF as one file of ours: all that sampling needs, from diffusers' directory.

The header says which network, chain, sampler, guidance and thresholding belong together. The text
encoder and the tokenizer stay where they are, and the header names their directories: T5 XXL
is larger than both stages.
"""

import contextlib
import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from imagen_jax.config import (
    DiffusionConfig,
    SamplingConfig,
    StageConfig,
    TextEncoderConfig,
    UNetConfig,
)
from imagen_jax.config.choices import Dtype, Spacing
from imagen_jax.errors import UsageError, naming
from imagen_jax.networks import Params
from imagen_jax.storage.files import write_text
from imagen_jax.storage.json_text import is_number, read_object, shown
from imagen_jax.weights.deepfloyd_config import StoredUNet, parse_unet_config, unet_values
from imagen_jax.weights.deepfloyd_if import disassembled, open_unet
from imagen_jax.weights.hugging_face import DIFFUSERS, PIPELINE_INDEX
from imagen_jax.weights.stage_file import save_stage_file
from imagen_jax.weights.t5_names import read_t5_config
from imagen_jax.weights.tensors import write_tensors

_TOKENS = 77
_ENLARGEMENT = 4
# The schedulers' directories of a stage, and what must stand in them.
_SCHEDULER = "scheduler"
_NOISING = "image_noising_scheduler"
_CHAIN = {
    "beta_schedule": "squaredcos_cap_v2",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
_REVERSE = {"variance_type": "learned_range", "thresholding": True}
"""Thresholding is dynamic."""
_DIFFUSION = DiffusionConfig(schedule="cosine_chain", augmented="enlarged")
_NEUTRAL = {"trained_betas": None, "rescale_betas_zero_snr": False, "steps_offset": 0}
_SPACINGS: dict[str, Spacing] = {
    "leading": "leading",
    "linspace": "even",
    "trailing": "trailing",
}
_VERSION = "0.35.1"
"""Of diffusers, whose form this is."""
_ABSENT = ("text_encoder", "tokenizer", "feature_extractor", "safety_checker", "watermarker")
"""Parts of a pipeline that are not written."""
# The defaults of diffusers' pipelines, which their directories do not say.
_DEFAULTS = {
    "deepfloyd_if_1": {"guidance_scale": 7.0, "num_steps": 100},
    "deepfloyd_if_2": {"guidance_scale": 4.0, "num_steps": 50, "aug_level": 0.25},
}


def convert_deepfloyd_if(directory: Path, out: Path, dtype: Dtype, text_from: Path) -> StageConfig:
    """Writes stage I or II from the directory of its pipeline; returns the stage's config.

    Args:
        directory: holds `unet` and `scheduler`, stage II also `image_noising_scheduler`.
        out: the file to write; it appears whole or not at all.
        dtype: of the written weights, and of the computations of U-Net and text encoder.
        text_from: holds `text_encoder` and `tokenizer`.

    Raises:
        UsageError: not such a directory, something in it is missing or damaged or does not fit
            the rest, or the file cannot be written.
    """
    if not (directory / "unet").is_dir():
        raise UsageError(
            f"{directory} has no directory unet; name the whole pipeline of a stage of DeepFloyd "
            "IF, as diffusers stores it."
        )
    stored, params = open_unet(directory / "unet")
    config = stage_config(directory, stored, text_from, dtype)
    save_stage_file(out, config, {"unet": params}, dtype)
    return config


def stage_config(directory: Path, stored: StoredUNet, text_from: Path, dtype: Dtype) -> StageConfig:
    """The config of the stage in `directory`; see `convert_deepfloyd_if`."""
    name = "deepfloyd_if_2" if stored.low_res else "deepfloyd_if_1"
    scheduler = _read_scheduler(directory, _SCHEDULER, _CHAIN | _REVERSE)
    if stored.low_res:
        _read_scheduler(directory, _NOISING, _CHAIN)
    text_encoder = _text_encoder(text_from, stored.text_width, dtype)
    thresholds = {
        "percentile": 100 * _number(scheduler, "dynamic_thresholding_ratio", directory),
        "max_threshold": _number(scheduler, "sample_max_value", directory),
    }
    spacing = _spacing(scheduler, directory)
    with naming(directory):
        return StageConfig(
            name=name,
            resolution=stored.resolution,
            low_resolution=stored.resolution // _ENLARGEMENT if stored.low_res else None,
            unet=dataclasses.replace(stored.config, dtype=dtype),
            text_encoder=text_encoder,
            diffusion=_DIFFUSION,
            sampling=SamplingConfig(
                sampler="ancestral",
                thresholding="dynamic",
                spacing=spacing,
                **thresholds,
                **_DEFAULTS[name],
            ),
        )


def export_deepfloyd_if(directory: Path, config: StageConfig, unet: Params, dtype: Dtype) -> None:
    """Writes the U-Net and the schedulers of a stage as the directory that `convert` reads.

    Text encoder and tokenizer are not among them, and diffusers is told that there are none.

    Args:
        directory: a new one, or empty.
        unet: its parameters, arrays or `Stored`.
        dtype: of the written weights.

    Raises:
        UsageError: the stage is not in the form of DeepFloyd IF's stages I and II, or a file cannot
            be written.
    """
    stored = unet_in_their_form(config)
    text = json.dumps(_class("UNet2DConditionModel") | unet_values(stored), indent=2)
    write_text(directory / "unet" / "config.json", text)
    schedulers = {_SCHEDULER: _CHAIN | _REVERSE | _thresholds(config)}
    schedulers |= {_NOISING: _CHAIN} if stored.low_res else {}
    for name, values in schedulers.items():
        text = json.dumps(_class("DDPMScheduler") | _NEUTRAL | values, indent=2)
        write_text(directory / name / "scheduler_config.json", text)
    write_text(directory / PIPELINE_INDEX, json.dumps(_index(schedulers), indent=2))
    weights = directory / "unet" / f"{DIFFUSERS['.safetensors']}.safetensors"
    write_tensors(weights, disassembled(unet), dtype, {"format": "pt"})


def unet_in_their_form(config: StageConfig) -> StoredUNet:
    """The network as diffusers' config says it."""
    text, low_res = config.text_encoder.width, config.low_resolution is not None
    same = ("schedule", "prediction", *(["augmented"] if low_res else []))
    alike = all(getattr(config.diffusion, name) == getattr(_DIFFUSION, name) for name in same)
    alike &= config.sampling.thresholding == "dynamic"
    if isinstance(config.unet, UNetConfig) and alike and not config.inputs.adds:
        stored = StoredUNet(config.unet, config.resolution, text, low_res)
        with contextlib.suppress(UsageError):
            read = parse_unet_config(unet_values(stored), Path(config.name))
            ours = dataclasses.replace(config.unet, dtype=read.config.dtype, remat=())
            if dataclasses.replace(stored, config=ours) == read:
                return stored
    raise UsageError(
        f"{config.name} is not in the form of a stage of DeepFloyd IF; only such a stage can be "
        "written for diffusers."
    )


def _thresholds(config: StageConfig) -> dict[str, Any]:
    spacings = {ours: theirs for theirs, ours in _SPACINGS.items()}
    return {
        "dynamic_thresholding_ratio": config.sampling.percentile / 100,
        "sample_max_value": config.sampling.max_threshold,
        "timestep_spacing": spacings[config.sampling.spacing],
    }


def _class(name: str) -> dict[str, str]:
    return {"_class_name": name, "_diffusers_version": _VERSION}


def _index(schedulers: Collection[str]) -> dict[str, Any]:
    pipeline = "IFSuperResolutionPipeline" if _NOISING in schedulers else "IFPipeline"
    nothing = {name: [None, None] for name in _ABSENT}
    parts = {name: ["diffusers", "DDPMScheduler"] for name in schedulers}
    unet = {"unet": ["diffusers", "UNet2DConditionModel"], "requires_safety_checker": False}
    return _class(pipeline) | parts | unet | nothing


def _read_scheduler(directory: Path, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's config, once it is sure that it is of IF's chain."""
    path = directory / name / "scheduler_config.json"
    stored = read_object(path)
    neutral = {key: value for key, value in _NEUTRAL.items() if key in stored}
    for key, value in (wanted | neutral).items():
        if stored.get(key) != value:
            raise UsageError(
                f"{path} has {key} {shown(stored.get(key))}; the chain of DeepFloyd IF has "
                f"{value!r}."
            )
    return stored


def _spacing(scheduler: dict[str, Any], directory: Path) -> Spacing:
    spacing = scheduler.get("timestep_spacing", "leading")
    if spacing not in tuple(_SPACINGS):
        raise UsageError(
            f"The scheduler in {directory} has timestep_spacing {shown(spacing)}; it must be one "
            f"of {', '.join(_SPACINGS)}."
        )
    return _SPACINGS[spacing]


def _number(scheduler: dict[str, Any], name: str, directory: Path) -> float:
    value = scheduler.get(name)
    if not is_number(value):
        raise UsageError(
            f"The scheduler in {directory} has {name} {shown(value)}; it must be a number."
        )
    return float(value)


def _text_encoder(text_from: Path, width: int, dtype: Dtype) -> TextEncoderConfig:
    source, tokenizer = text_from / "text_encoder", text_from / "tokenizer"
    for path in (source, tokenizer):
        if not path.is_dir():
            raise UsageError(
                f"{path} does not exist; name a directory that holds text_encoder and tokenizer "
                "with --text-encoder."
            )
    t5 = dataclasses.replace(read_t5_config(source), dtype=dtype)
    if t5.d_model != width:
        raise UsageError(
            f"The text encoder in {source} has d_model {t5.d_model}; the U-Net was trained on a "
            f"text of width {width}."
        )
    return TextEncoderConfig(
        t5=t5,
        tokenizer=str(tokenizer.absolute()),
        source=str(source.absolute()),
        max_length=_TOKENS,
        lowercase=True,
        null="empty",
    )
