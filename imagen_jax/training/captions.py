"""What a training batch holds of its captions."""

from collections.abc import Sequence
from pathlib import Path

from imagen_jax.config import StageConfig
from imagen_jax.data.pipeline import Batch, ReadCaptions
from imagen_jax.loading import load_stage_tokenizer
from imagen_jax.text.cache import EmbeddingCache


def load_caption_reader(config: StageConfig) -> ReadCaptions:
    """Captions -> tokens for the text encoder, or embeddings from `data.embeddings`.

    Raises:
        UsageError: there is no such tokenizer, or there are no such embeddings, or those of
            another encoder.
    """
    if config.data.embeddings:
        cache = EmbeddingCache(Path(config.data.embeddings).expanduser())
        cache.check(config)
        return cache
    tokenizer, length = load_stage_tokenizer(config), config.text_encoder.max_length

    def tokenize(captions: Sequence[str]) -> Batch:
        # A blank caption is an error, but the empty one may be the text of dropped captions.
        empty = list(captions) == [""]
        token_ids, mask = tokenizer.empty(length) if empty else tokenizer(captions, length)
        return {"token_ids": token_ids, "mask": mask}

    return tokenize
