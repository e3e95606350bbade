"""Text encoders that a stage uses but does not train."""

from imagen_jax.config import StageConfig, json_form
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.storage.files import AnyPath, write_text
from imagen_jax.text.cache_format import Metadata
from imagen_jax.text.clip_tokenizer import tokenizer_of
from imagen_jax.text.tokenizer import Tokenizer

ENCODER_COPY = "text_encoder.safetensors"


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


def keep_account_of_embeddings(metadata: Metadata, workdir: AnyPath) -> None:
    """Notes in `workdir` what made the embeddings that it is trained on; one process writes."""
    if distributed.leads():
        write_text(workdir / _EMBEDDINGS, json_form.to_sealed_json(metadata))
