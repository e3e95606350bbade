"""Captions to token ids, as CLIP has them: byte pairs between a beginning and an end.

The vocabulary is read by transformers: lower case, single spaces, Unicode's composed form (NFC).
OpenAI's own code also mends what was decoded wrongly (ftfy) and reads HTML's escapes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagen_jax.config import TextEncoderConfig
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.json_text import read_object, shown
from imagen_jax.text.tokenizer import Tokenizer, load_tokenizer

_BEGINNING = "<|startoftext|>"
_END = "<|endoftext|>"
_JSON_NAME = "tokenizer.json"
_PAIR = ("vocab.json", "merges.txt")


class ClipVocabulary:
    """`tokenizer.json`, or `vocab.json` with `merges.txt`; no network access."""

    def __init__(self, directory: Path) -> None:
        """Reads it.

        Raises:
            UsageError: neither of the two is there, or it is no vocabulary of CLIP.
        """
        from transformers import CLIPTokenizer  # Slow to import, and few runs need it.

        self.files: Sequence[Path] = _files(directory)
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(str(directory), local_files_only=True)
        except Exception as error:  # The Rust library raises a bare Exception.
            said = shown(reason(error))
            raise UsageError(f"{directory} holds no tokenizer of CLIP: {said}.") from error
        ids = self._tokenizer.get_vocab()
        self.beginning, self.end = (ids[_BEGINNING],), ids[_END]
        self.size = max(ids.values()) + 1

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)


def load_clip_tokenizer(directory: Path, *, lowercase: bool = False) -> Tokenizer:
    """The tokenizer of a CLIP's directory. No token attends to what comes after it, so any id does
    for padding.

    Raises:
        UsageError: there is none.
    """
    return Tokenizer(ClipVocabulary(directory), lowercase)


def tokenizer_of(encoder: TextEncoderConfig) -> Tokenizer:
    """What reads captions for a text encoder.

    Raises:
        UsageError: there is no such tokenizer.
    """
    if encoder.clip is None:
        return load_tokenizer(encoder.tokenizer, lowercase=encoder.lowercase)
    return load_clip_tokenizer(Path(encoder.tokenizer), lowercase=encoder.lowercase)


def _files(directory: Path) -> list[Path]:
    """The vocabulary's files that transformers reads, which adds what they lack without a word."""
    path = directory / _JSON_NAME
    if path.is_file():
        model = read_object(path).get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        if kind != "BPE":
            raise UsageError(
                f"{path} holds a tokenizer of the model {shown(kind)}; CLIP's is 'BPE'."
            )
        _require_ends(model.get("vocab"), path)
        return [path]
    pair = [directory / name for name in _PAIR]
    if not all(path.is_file() for path in pair):
        raise UsageError(f"{directory} holds neither {_JSON_NAME} nor {' and '.join(_PAIR)}.")
    _require_ends(read_object(pair[0]), pair[0])
    return pair


def _require_ends(vocabulary: Any, path: Path) -> None:
    if not isinstance(vocabulary, dict) or not {_BEGINNING, _END} <= vocabulary.keys():
        raise UsageError(f"{path} lacks {_BEGINNING} or {_END}, which CLIP's vocabulary has.")
