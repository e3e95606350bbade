"""What a training batch holds of its captions."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from imagen_jax.config import StageConfig
from imagen_jax.data.pipeline import Batch
from imagen_jax.storage.files import with_home
from imagen_jax.stored.encoders import load_stage_tokenizer
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.text.tokenizer import Tokenizer

_QUOTED = 5
_LONGEST_QUOTE = 200


def load_caption_reader(config: StageConfig) -> "CaptionTokens | EmbeddingCache":
    """Captions -> tokens for the text encoder, or embeddings from `data.embeddings`.

    Raises:
        UsageError: there is no such tokenizer, or there are no such embeddings, or those of
            another encoder.
    """
    if config.data.embeddings:
        cache = EmbeddingCache(with_home(Path(config.data.embeddings)))
        cache.check(config)
        return cache
    return CaptionTokens(load_stage_tokenizer(config), config.text_encoder.max_length)


class CaptionTokens:
    """Captions -> token ids and mask; a caption that is blank has its ends alone.

    The first few captions that are too long are quoted in warnings, the others counted.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int):
        self._tokenizer, self._max_length = tokenizer, max_length
        self._cut, self._said_at = 0, 10 * _QUOTED

    @property
    def fingerprint(self) -> str:
        """The tokenizer's."""
        return self._tokenizer.fingerprint

    def __call__(self, captions: Sequence[str]) -> Batch:
        ids = [self._tokenizer.read(caption) for caption in captions]
        for caption, of_caption in zip(captions, ids, strict=True):
            if len(of_caption) > self._max_length - self._tokenizer.ends:
                self._say_cut(caption, of_caption)
        token_ids, mask = self._tokenizer.padded(ids, self._max_length)
        return {"token_ids": token_ids, "mask": mask}

    def _say_cut(self, caption: str, ids: list[int]) -> None:
        self._cut += 1
        if self._cut <= _QUOTED:
            dropped = self._tokenizer.dropped(ids, self._max_length)
            warnings.warn(f"The caption {_short(repr(caption))} {_short(dropped)}.", stacklevel=3)
        elif self._cut == self._said_at:
            self._said_at *= 10
            warnings.warn(
                f"{self._cut} captions so far, each as often as it was read, were longer than "
                f"text_encoder.max_length ({self._max_length}); their ends are dropped.",
                stacklevel=3,
            )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."
