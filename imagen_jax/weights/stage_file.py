"""One stage as one `.safetensors` file: its parameters, its config in the header."""

import dataclasses
from typing import get_args

from flax.traverse_util import unflatten_dict

from imagen_jax.config import StageConfig, json_form
from imagen_jax.config.choices import Dtype, Weights
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params, abstract_params, abstract_text_encoder
from imagen_jax.storage.files import AnyPath
from imagen_jax.weights.adapter_file import FORMAT as ADAPTER_FORMAT
from imagen_jax.weights.hugging_face import TORCH
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.tensors import StoredParams, fit_params, write_tensors

_FORMAT = "imagen-jax stage 1"


def save_stage_file(
    path: AnyPath,
    config: StageConfig,
    params: Params,
    dtype: Dtype,
    weights: Weights = "ema",
    tokenizer: str = "",
) -> None:
    """Writes "unet" and, if it is in `params`, "text_encoder"; the header says which `weights`, and
    the fingerprint of the `tokenizer` that the stage was trained with, if it is known.

    Paths of this machine stay out of the header: where the data lies, and where an encoder
    was read that now is in the file. A tokenizer's directory stays, for it is still needed.
    """
    config = exported_config(config, with_encoder="text_encoder" in params)
    metadata = {"format": _FORMAT, "config": json_form.to_json(config), "weights": weights}
    metadata |= {"tokenizer": tokenizer} if tokenizer else {}
    write_tensors(path, params, dtype, metadata)


def exported_config(config: StageConfig, *, with_encoder: bool) -> StageConfig:
    """The config in the header of a file that holds the stage, with or without its encoder."""
    taught, data = (
        dataclasses.replace(config.distillation, teacher=""),
        config.data.without_places(),
    )
    training = config.training
    if config.data.eval_source and not data.eval_source:
        training = dataclasses.replace(training, eval_every=0)
    config = dataclasses.replace(config, data=data, training=training, distillation=taught)
    if with_encoder:
        encoder = dataclasses.replace(config.text_encoder, source="")
        config = dataclasses.replace(config, text_encoder=encoder)
    return config


def load_stage_file(path: AnyPath) -> tuple[StageConfig, Params]:
    """Config and float32 parameters of an exported stage.

    Raises:
        UsageError: no such file, cut short, of another format, or with tensors that are not
            those of its config.
    """
    config, stored = open_stage_file(path)
    return config, unflatten_dict({name: x.whole("float32") for name, x in stored.items()})


def open_stage_file(path: AnyPath) -> tuple[StageConfig, StoredParams]:
    """Config and parameters of an exported stage; no tensor is read.

    Raises:
        UsageError: as `load_stage_file`.
    """
    header, tensors = open_file(path)
    config = _config(header, path)
    holds_encoder = any(name.startswith("text_encoder.") for name in tensors)
    return config, fit_params(tensors, _abstract(config, holds_encoder), path)


def is_stage_file(path: AnyPath) -> bool:
    """Whether a file of weights says that it is an exported stage.

    Raises:
        UsageError: it is damaged, or is neither safetensors nor named as PyTorch's files are.
    """
    return path.suffix != TORCH and open_file(path)[0].get("format") == _FORMAT


def read_stage_config(path: AnyPath) -> StageConfig:
    """The config in the header; no tensor is read.

    Raises:
        UsageError: no such file, cut short, or of another format.
    """
    return _config(open_file(path)[0], path)


def read_weights(path: AnyPath) -> Weights:
    """Which weights a file holds. Files of the first versions do not say it: they hold the EMA.

    Raises:
        UsageError: as `read_stage_config`, or it says anything else.
    """
    header = open_file(path)[0]
    _config(header, path)
    weights = header.get("weights", "ema")
    if weights not in get_args(Weights):
        raise UsageError(f"{path} holds {weights!r} weights; its header must say ema or raw.")
    return weights


def read_tokenizer(path: AnyPath) -> str:
    """The fingerprint of the tokenizer that the stage was trained with; empty where it is unknown.

    Raises:
        UsageError: as `read_stage_config`.
    """
    header = open_file(path)[0]
    _config(header, path)
    return header.get("tokenizer", "")


def _config(header: dict[str, str], path: AnyPath) -> StageConfig:
    if header.get("format") == ADAPTER_FORMAT:
        raise UsageError(f"{path} is an adapter; it is added to the stage that it was trained on.")
    if header.get("format") != _FORMAT:
        raise UsageError(
            f"{path} is not an exported stage: its header says format "
            f"{header.get('format')!r}, not {_FORMAT!r}."
        )
    return json_form.from_json(header.get("config", ""), f"{path} (header)")


def _abstract(config: StageConfig, holds_encoder: bool) -> Params:
    params = abstract_params(config)
    if holds_encoder:
        params["text_encoder"] = abstract_text_encoder(config)
    return params
