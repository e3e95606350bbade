"""Trained stages and text encoders, from wherever a user keeps them."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from imagen_jax.config import MeshConfig, StageConfig, Weights
from imagen_jax.config_file import read_config_file
from imagen_jax.errors import UsageError
from imagen_jax.files import AnyPath, to_path
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import make_mesh, parameter_shardings, place_parameters, to_host
from imagen_jax.stage import Params, abstract_frozen_encoder
from imagen_jax.text.tokenizer import Tokenizer, load_tokenizer
from imagen_jax.training.checkpoint import load_directory
from imagen_jax.training.directory import is_training_directory, read_config
from imagen_jax.weights.stage_file import load_stage_file, read_stage_config, read_weights
from imagen_jax.weights.t5_names import is_converted, load_t5
from imagen_jax.weights.tensors import nest, read_tensors, write_tensors

_ENCODER_COPY = "text_encoder.safetensors"


@dataclasses.dataclass(frozen=True)
class LoadedStage:
    """A trained stage with its text encoder.

    Attributes:
        origin: where it was loaded from.
        config: its own.
        params: "unet" and "text_encoder".
        weights: which parameters they are.
    """

    origin: AnyPath
    config: StageConfig
    params: Params
    weights: Weights = "ema"


def load_stage(
    path: AnyPath, weights: Weights | None = None, *, with_encoder: bool = True
) -> LoadedStage:
    """A stage from a training directory or an exported file.

    Args:
        path: of either.
        weights: None takes the EMA of a training directory, and what a file holds.
        with_encoder: an encoder that the stage does not train is loaded too.

    Raises:
        UsageError: neither, damaged, of another format, or a file with the other weights.
    """
    if is_training_directory(path):
        weights = weights or "ema"
        config, params = load_directory(path, make_mesh(MeshConfig()), weights)
    elif path.is_file():
        held = read_weights(path)
        if weights not in (None, held):
            raise UsageError(
                f"{path} holds {held} weights and no others; {weights} were asked for."
            )
        weights = held
        config, params = load_stage_file(path)
    else:
        raise UsageError(f"{path} is neither a training directory nor an exported stage.")
    if "text_encoder" not in params and with_encoder:
        workdir = path if path.is_dir() else None
        encoder = load_frozen_encoder(config, workdir, make_mesh(MeshConfig()))
        params = {**params, "text_encoder": encoder}
    return LoadedStage(path, config, params, weights)


def load_config(path: AnyPath) -> StageConfig:
    """The config of a config file (Python with a `get_config`), or of a stage; no weights needed.

    Raises:
        UsageError: none of these.
    """
    if is_training_directory(path):
        return read_config(path)
    if path.suffix == ".py" and path.is_file():
        return read_config_file(path)
    if path.is_file():
        return read_stage_config(path)
    raise UsageError(
        f"{path} is neither a config file (configs/NAME.py), a training directory nor an "
        "exported stage."
    )


def load_frozen_encoder(config: StageConfig, workdir: AnyPath | None, mesh: Mesh) -> Params:
    """The encoder that a stage uses but does not train, on the mesh, in its computation's dtype.

    A training directory's own copy comes first, then `text_encoder.source`.

    Raises:
        UsageError: no source, or an encoder of other sizes or another tokenizer.
    """
    t5 = config.text_encoder.t5
    source = to_path(config.text_encoder.source)
    if workdir is not None and (workdir / _ENCODER_COPY).exists():
        tensors = read_tensors(workdir / _ENCODER_COPY)
        encoder = nest(tensors, abstract_frozen_encoder(t5), workdir / _ENCODER_COPY)
    elif not config.text_encoder.source:
        raise UsageError(
            "text_encoder.source is empty; name a Hugging Face T5 directory, a converted T5 file "
            "or a stage, or set text_encoder.train."
        )
    elif not source.exists():
        raise UsageError(
            f"text_encoder.source is {str(source)!r}; there is no such directory or file."
        )
    elif _is_stage(source):
        encoder = _encoder_of_stage(source, config)
    else:
        return load_t5(source, t5, mesh)
    encoder = jax.tree.map(lambda x: x.astype(jnp.dtype(t5.dtype)), encoder)
    return place_parameters(encoder, parameter_shardings(encoder, mesh))


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


def keep_frozen_encoder(config: StageConfig, encoder: Params, workdir: AnyPath) -> None:
    """Copies an encoder that came from a stage, which may train on, into `workdir`.

    All processes take part and the first one writes. T5 from a Hugging Face directory or a
    converted file is not copied: it is large and does not change.
    """
    copy = workdir / _ENCODER_COPY
    if not _is_stage(to_path(config.text_encoder.source)) or copy.exists():
        return
    encoder = to_host(encoder)
    if distributed.leads():
        write_tensors(copy, encoder, "float32", {})


def _is_stage(path: AnyPath) -> bool:
    return is_training_directory(path) or (path.is_file() and not is_converted(path))


def _encoder_of_stage(source: AnyPath, config: StageConfig) -> Params:
    stage = load_stage(source)
    ours, theirs = config.text_encoder, stage.config.text_encoder
    # How it is computed may differ.
    sizes = dataclasses.replace(theirs.t5, dtype=ours.t5.dtype, remat=ours.t5.remat)
    if (sizes, theirs.tokenizer) != (ours.t5, ours.tokenizer):
        raise UsageError(
            f"{source} has the text encoder {theirs.t5} with tokenizer {theirs.tokenizer!r}; "
            f"this stage expects {ours.t5} with {ours.tokenizer!r}."
        )
    return stage.params["text_encoder"]
