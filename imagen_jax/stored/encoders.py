"""Text encoders that a stage uses but does not train."""

from imagen_jax.checkpoints.directory import is_training_directory, read_config
from imagen_jax.config import StageConfig, json_form
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import to_host
from imagen_jax.storage.files import AnyPath, write_text
from imagen_jax.storage.hub import stage_path
from imagen_jax.text.cache_format import Metadata
from imagen_jax.text.clip_tokenizer import tokenizer_of
from imagen_jax.text.tokenizer import Tokenizer
from imagen_jax.weights.stage_file import is_stage_file
from imagen_jax.weights.tensors import write_tensors

ENCODER_COPY = "text_encoder.safetensors"
"""In a training directory: of the encoder that its config names."""
_EMBEDDINGS = "embeddings.json"


def trained_on(workdir: AnyPath) -> Metadata | None:
    """What made the embeddings that a training directory keeps account of."""
    path = workdir / _EMBEDDINGS
    if not path.is_file():
        return None
    return json_form.from_sealed_json(path.read_bytes(), str(path), Metadata)


def load_stage_tokenizer(config: StageConfig) -> Tokenizer:
    """The tokenizer of a stage.

    Raises:
        UsageError: there is none, or it has more pieces than the encoder has embeddings.
    """
    encoder = config.text_encoder
    tokenizer, network = tokenizer_of(encoder), encoder.network
    name = "t5" if encoder.clip is None else "clip"
    if tokenizer.vocab_size > network.vocab_size:
        raise UsageError(
            f"text_encoder.{name}.vocab_size is {network.vocab_size}; the tokenizer "
            f"{encoder.tokenizer!r} needs at least {tokenizer.vocab_size}."
        )
    if encoder.clip is not None and tokenizer.end_id != encoder.clip.end_id:
        raise UsageError(
            f"text_encoder.clip.end_id is {encoder.clip.end_id}; the tokenizer "
            f"{encoder.tokenizer!r} ends texts with {tokenizer.end_id}."
        )
    return tokenizer


def load_trained_tokenizer(config: StageConfig, fingerprint: str, origin: AnyPath) -> Tokenizer:
    """The tokenizer of a trained stage.

    Args:
        fingerprint: of the one that it was trained with; empty where that is unknown.
        origin: where the stage lies.

    Raises:
        UsageError: as `load_stage_tokenizer`, or it is not the one that it was trained with.
    """
    tokenizer = load_stage_tokenizer(config)
    if fingerprint not in ("", tokenizer.fingerprint):
        raise UsageError(
            f"The tokenizer {config.text_encoder.tokenizer!r} is not the one that {origin} was "
            "trained with; put that one back."
        )
    return tokenizer


def is_stage(path: AnyPath) -> bool:
    """Whether a path is a stage's training directory or file.

    Raises:
        UsageError: a file of weights is damaged.
    """
    return is_training_directory(path) or (path.is_file() and is_stage_file(path))


def copied_encoder(config: StageConfig, workdir: AnyPath | None) -> AnyPath | None:
    """A training directory's own copy of the encoder that `config` names, if there is one."""
    copy = None if workdir is None else workdir / ENCODER_COPY
    if copy is None or not copy.exists():
        return None
    of = read_config(workdir).text_encoder.source
    return copy if of == config.text_encoder.source else None


def keep_frozen_encoder(config: StageConfig, encoder: Params, workdir: AnyPath) -> None:
    """Copies an encoder that came from a stage, which may train on, into `workdir`.

    All processes take part and the first one writes. One from a Hugging Face directory or a
    converted file is not copied: it is large and does not change.
    """
    copy = workdir / ENCODER_COPY
    if copy.exists() or not is_stage(stage_path(config.text_encoder.source)):
        return
    encoder = to_host(encoder)
    if distributed.leads():
        write_tensors(copy, encoder, "float32", {})


def drop_other_encoder(config: StageConfig, workdir: AnyPath) -> None:
    """Removes a training directory's copy of another encoder than `config` names; one process does.

    It comes before the directory takes on the config: whenever a run is killed, there is no copy or
    the one of the source that is named there.
    """
    copy = workdir / ENCODER_COPY
    if distributed.leads() and copy.exists() and copied_encoder(config, workdir) is None:
        copy.unlink()


def keep_account_of_embeddings(metadata: Metadata, workdir: AnyPath) -> None:
    """Notes in `workdir` what made the embeddings that it is trained on; one process writes."""
    if distributed.leads():
        write_text(workdir / _EMBEDDINGS, json_form.to_sealed_json(metadata))
