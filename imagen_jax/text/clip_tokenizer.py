"""Captions to token ids, as CLIP has them: byte pairs between a beginning and an end.

The vocabulary is read by transformers: lower case, single spaces, Unicode's composed form (NFC).
OpenAI's own code also mends what was decoded wrongly (ftfy) and reads HTML's escapes.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.json_text import read_object, shown
from imagen_jax.text.tokenizer import as_read

PAD_ID = 0
"""No token attends to what comes after it, so that any id does."""

_BEGINNING = "<|startoftext|>"
_END = "<|endoftext|>"
_JSON_NAME = "tokenizer.json"
_PAIR = ("vocab.json", "merges.txt")


class ClipTokenizer:
    """Texts to padded ids."""

    def __init__(self, directory: Path) -> None:
        """Reads `tokenizer.json`, or `vocab.json` with `merges.txt`; no network access.

        Raises:
            UsageError: neither of the two is there, or it is no vocabulary of CLIP.
        """
        from transformers import CLIPTokenizer  # Slow to import, and few runs need it.

        self._files = _files(directory)
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(str(directory), local_files_only=True)
        except Exception as error:  # The Rust library raises a bare Exception.
            said = shown(reason(error))
            raise UsageError(f"{directory} holds no tokenizer of CLIP: {said}.") from error
        ids = self._tokenizer.get_vocab()
        self._beginning, self.end_id = ids[_BEGINNING], ids[_END]
        self.vocab_size = max(ids.values()) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary's files."""
        sha = hashlib.sha256()
        for path in self._files:
            sha.update(path.read_bytes())
        return sha.hexdigest()

    def __call__(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[Int32[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """Ids and mask of `texts`, both [len(texts), max_length].

        Each text stands between the beginning and the end, and the mask is True up to and with the
        end. What does not fit is dropped with a warning that quotes it.

        Raises:
            UsageError: a text that is blank or not valid Unicode, or no room for one token.
        """
        if max_length < 3:
            raise UsageError(
                f"max_length is {max_length}; it must be 3 or more, for one token and two ends."
            )
        token_ids = np.full((len(texts), max_length), PAD_ID, np.int32)
        mask = np.zeros((len(texts), max_length), bool)
        for row, text in enumerate(texts):
            ids = [self._beginning, *self._ids(text, max_length - 2), self.end_id]
            token_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return token_ids, mask

    def _ids(self, text: str, room: int) -> list[int]:
        """The first ids of a text, `room` of them at most."""
        read = as_read(text, lowercase=False)
        ids = self._tokenizer(read, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise UsageError(f"The caption {text!r} is blank; a caption must have some text.")
        if len(ids) > room:
            end = self._tokenizer.decode(ids[room:])
            warnings.warn(
                f"The caption {text!r} has {len(ids)} tokens and there is room for {room}; its "
                f"end is dropped: {end!r}.",
                stacklevel=3,
            )
        return ids[:room]


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
