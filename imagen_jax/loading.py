"""Trained stages and text encoders, from wherever a user keeps them."""

import dataclasses
import functools
import runpy
import sys
from pathlib import Path

import jax

from imagen_jax.config import MeshConfig, StageConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import make_mesh, to_host
from imagen_jax.stage import Params, init_text_encoder
from imagen_jax.text.tokenizer import Tokenizer, load_tokenizer
from imagen_jax.training.checkpoint import is_training_directory, load_directory, read_config
from imagen_jax.weights.stage_file import load_stage_file
from imagen_jax.weights.t5_names import load_t5
from imagen_jax.weights.tensors import nest, read_tensors, write_tensors

_ENCODER_COPY = "text_encoder.safetensors"


@dataclasses.dataclass(frozen=True)
class LoadedStage:
    """A trained stage with its text encoder; what was trained here are EMA weights."""

    origin: Path
    config: StageConfig
    params: Params


def load_stage(path: Path) -> LoadedStage:
    """A stage from a training directory or an exported file.

    Raises:
        UsageError: neither, damaged, or of another format.
    """
    if is_training_directory(path):
        config, params = load_directory(path, make_mesh(MeshConfig()))
    elif path.is_file():
        config, params = load_stage_file(path)
    else:
        raise UsageError(f"{path} is neither a training directory nor an exported stage.")
    if "text_encoder" not in params:
        workdir = path if path.is_dir() else None
        params = {**params, "text_encoder": load_frozen_encoder(config, workdir)}
    return LoadedStage(path, config, params)


def load_config(path: Path) -> StageConfig:
    """The config of a config file (Python with a `get_config`), or of a stage; no weights needed.

    Raises:
        UsageError: none of these.
    """
    if is_training_directory(path):
        return read_config(path)
    if path.suffix == ".py" and path.is_file():
        sys.path.insert(0, str(path.resolve().parents[1]))  # It may import its neighbours.
        variables = runpy.run_path(str(path))
        if "get_config" not in variables:
            raise UsageError(f"{path} is no config file: it has no function get_config.")
        return variables["get_config"]()
    if path.is_file():
        return load_stage_file(path)[0]
    raise UsageError(
        f"{path} is neither a config file (configs/NAME.py), a training directory nor an "
        "exported stage."
    )


def load_frozen_encoder(config: StageConfig, workdir: Path | None) -> Params:
    """The encoder that a stage uses but does not train.

    A training directory's own copy comes first, then `text_encoder.source`.

    Raises:
        UsageError: no source, or an encoder of other sizes or another tokenizer.
    """
    if workdir is not None and (workdir / _ENCODER_COPY).exists():
        tensors, _ = read_tensors(workdir / _ENCODER_COPY)
        init = functools.partial(init_text_encoder, config, jax.random.key(0))
        return nest(tensors, jax.eval_shape(init), workdir / _ENCODER_COPY)
    if not config.text_encoder.source:
        raise UsageError(
            "text_encoder.source is empty; name a Hugging Face T5 directory or a stage, "
            "or set text_encoder.train."
        )
    source = Path(config.text_encoder.source)
    if not source.exists():
        raise UsageError(
            f"text_encoder.source is {str(source)!r}; there is no such directory or file."
        )
    if _is_stage(source):
        return _encoder_of_stage(source, config)
    return load_t5(source, config.text_encoder.t5)[1]


def load_stage_tokenizer(config: StageConfig) -> Tokenizer:
    """The tokenizer of a stage.

    Raises:
        UsageError: there is none, or it has more pieces than the encoder has embeddings.
    """
    encoder = config.text_encoder
    tokenizer = load_tokenizer(encoder.tokenizer, lowercase=encoder.lowercase)
    rows = config.text_encoder.t5.vocab_size
    if tokenizer.vocab_size > rows:
        raise UsageError(
            f"text_encoder.t5.vocab_size is {rows}; the tokenizer "
            f"{config.text_encoder.tokenizer!r} needs at least {tokenizer.vocab_size}."
        )
    return tokenizer


def keep_frozen_encoder(config: StageConfig, encoder: Params, workdir: Path) -> None:
    """Copies an encoder that came from a stage, which may train on, into `workdir`.

    All processes take part and the first one writes. An encoder from a Hugging Face directory
    is not copied: it is large and does not change.
    """
    copy = workdir / _ENCODER_COPY
    if not _is_stage(Path(config.text_encoder.source)) or copy.exists():
        return
    encoder = to_host(encoder)
    if distributed.leads():
        write_tensors(copy, encoder, "float32", {})


def _is_stage(path: Path) -> bool:
    return path.is_file() or is_training_directory(path)


def _encoder_of_stage(source: Path, config: StageConfig) -> Params:
    stage = load_stage(source)
    ours, theirs = config.text_encoder, stage.config.text_encoder
    if (theirs.t5, theirs.tokenizer) != (ours.t5, ours.tokenizer):
        raise UsageError(
            f"{source} has the text encoder {theirs.t5} with tokenizer {theirs.tokenizer!r}; "
            f"this stage expects {ours.t5} with {ours.tokenizer!r}."
        )
    return stage.params["text_encoder"]
