"""Captions to token ids, as T5 has them: SentencePiece pieces, then `</s>`, then padding.

Two kinds of vocabulary: a SentencePiece model, read by SentencePiece itself, and a
`tokenizer.json`, read by transformers. SentencePiece models are not left to the T5 class of
transformers, because it has no byte fallback: it makes `<unk>` of every character that a
small vocabulary lacks.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int32

from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.json_text import read_object, shown

PAD_ID = 0
EOS_ID = 1

_CAPTIONS = Path(__file__).with_name("captions.model")
_SENTENCEPIECE_NAME = "spiece.model"
_JSON_NAME = "tokenizer.json"
_MOST_BYTES = 2**28
"""Of a SentencePiece model; mT5's, of 250,000 pieces, has 4 million."""


@runtime_checkable
class Vocabulary(Protocol):
    """Texts to ids, without those at a text's ends.

    Attributes:
        size: every id is below it.
        beginning: ids before those of each text.
        end: the id after them.
        files: that hold it.
    """

    size: int
    beginning: tuple[int, ...]
    end: int
    files: Sequence[Path]

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


class SentencePieceVocabulary:
    """A SentencePiece model file, such as T5's `spiece.model`; ids without `</s>`."""

    beginning, end = (), EOS_ID

    def __init__(self, path: Path) -> None:
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise OSError(f"it has more than {_MOST_BYTES:,} bytes")
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise UsageError(f"{path} is not a readable SentencePiece model: {error}.") from error
        _require_t5_ids(path, self._model.pad_id(), self._model.eos_id())
        self.files, self.size = (path,), self._model.vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)


class JsonVocabulary:
    """A `tokenizer.json`, all that transformers 5 saves of a tokenizer; ids without `</s>`.

    Unlike SentencePiece it takes the letters `</s>` in a caption for the end of the text.
    """

    beginning, end = (), EOS_ID

    def __init__(self, path: Path) -> None:
        from transformers import PreTrainedTokenizerFast  # Slow to import, and few runs need it.

        _require_unigram(path)
        try:
            self._tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
        except Exception as error:  # The Rust library raises a bare Exception.
            said = shown(reason(error))
            raise UsageError(f"{path} is no tokenizer file of Hugging Face: {said}.") from error
        ids = self._tokenizer.get_vocab()
        _require_t5_ids(path, ids.get("<pad>"), ids.get("</s>"))
        self.files, self.size = (path,), len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)


class Tokenizer:
    """Texts to padded ids. Picklable, so that worker processes can have one."""

    def __init__(self, vocabulary: Vocabulary, lowercase: bool = False) -> None:
        self._vocabulary = vocabulary
        self.lowercase = lowercase

    @property
    def vocab_size(self) -> int:
        """Every id is below this."""
        return self._vocabulary.size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary's files."""
        sha = hashlib.sha256()
        for path in self._vocabulary.files:
            sha.update(path.read_bytes())
        return sha.hexdigest()

    @property
    def end_id(self) -> int:
        """What each text ends with."""
        return self._vocabulary.end

    @property
    def ends(self) -> int:
        """How many tokens a text has beside its own."""
        return len(self._vocabulary.beginning) + 1

    def __call__(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[Int32[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """Ids and mask of `texts`, both [len(texts), max_length].

        Each text stands between what the vocabulary has for its ends and is padded with id 0; the
        mask is True up to and with the end. What does not fit is dropped with a warning that quotes
        it.

        Raises:
            UsageError: a text that is blank or not valid Unicode, or no room for one token.
        """
        ids = [self.ids(text) for text in texts]
        for text, of_text in zip(texts, ids, strict=True):
            if dropped := self.dropped(of_text, max_length):
                warnings.warn(f"The caption {text!r} {dropped}.", stacklevel=2)
        return self.padded(ids, max_length)

    def padded(
        self, ids: Sequence[Sequence[int]], max_length: int
    ) -> tuple[Int32[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """Ids and mask of texts that were read already; what does not fit is dropped silently.

        Raises:
            UsageError: there is no room for one token.
        """
        if max_length <= self.ends:
            raise UsageError(
                f"max_length is {max_length}; it must be {self.ends + 1} or more, for one token "
                "beside a text's ends."
            )
        token_ids = np.full((len(ids), max_length), PAD_ID, np.int32)
        mask = np.zeros((len(ids), max_length), bool)
        for row, of_text in enumerate(ids):
            kept = self.kept(of_text, max_length)
            token_ids[row, : len(kept)] = kept
            mask[row, : len(kept)] = True
        return token_ids, mask

    def kept(self, ids: Sequence[int], max_length: int) -> list[int]:
        """What is read of a text's ids, between its ends."""
        vocabulary = self._vocabulary
        return [*vocabulary.beginning, *ids[: max_length - self.ends], vocabulary.end]

    def dropped(self, ids: list[int], max_length: int) -> str:
        """What of a text's ids does not fit, in words; empty where all of them do."""
        room = max_length - self.ends
        if len(ids) <= room:
            return ""
        end = self._vocabulary.decode(ids[room:])
        return f"has {len(ids)} tokens and there is room for {room}; its end is dropped: {end!r}"

    def empty(
        self, max_length: int
    ) -> tuple[Int32[np.ndarray, "1 length"], Bool[np.ndarray, "1 length"]]:
        """Ids and mask of the empty text: its ends and padding."""
        return self.padded([[]], max_length)

    def decode(self, ids: Sequence[int]) -> str:
        """The text with these ids, without its ends, but for what the vocabulary left out."""
        ends = (PAD_ID, *self._vocabulary.beginning, self._vocabulary.end)
        return self._vocabulary.decode([i for i in ids if i not in ends])

    def ids(self, text: str) -> list[int]:
        """All ids of a text, without its ends.

        Raises:
            UsageError: it is blank or not valid Unicode.
        """
        ids = self.read(text)
        if not ids:
            raise UsageError(f"The caption {text!r} is blank; a caption must have some text.")
        return ids

    def read(self, text: str) -> list[int]:
        """The ids of a text, none where it is blank to the vocabulary.

        Raises:
            UsageError: it is not valid Unicode.
        """
        return self._vocabulary.encode(as_read(text, self.lowercase))


def as_read(text: str, lowercase: bool) -> str:
    """What of a caption is read: all of it, or in lower case without spaces around it.

    Raises:
        UsageError: it is not valid Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"The caption {text!r} is not valid Unicode: {error.reason}.") from error
    return text.lower().strip() if lowercase else text


def one_line(prompt: str) -> str:
    """A prompt as a file of prompts has it: single spaces between its words and none around.

    A byte order mark before it is none of it: a shell's "$(cat FILE)" leaves it there.
    """
    return " ".join(prompt.removeprefix("\ufeff").split())


def load_tokenizer(name_or_dir: str, *, lowercase: bool = False) -> Tokenizer:
    """The tokenizer called `captions`, or the one in a directory; no network access.

    Args:
        name_or_dir: `captions`, the vocabulary that ships with this package, or a directory
            that holds a T5 `spiece.model` or a T5 `tokenizer.json` (the first one wins).
        lowercase: whether texts are read in lower case, without spaces around them.

    Raises:
        UsageError: neither of the two, or a file that is not a T5 vocabulary.
    """
    if name_or_dir == "captions":
        return Tokenizer(SentencePieceVocabulary(_CAPTIONS), lowercase)
    directory = Path(name_or_dir)
    if (directory / _SENTENCEPIECE_NAME).is_file():
        return Tokenizer(SentencePieceVocabulary(directory / _SENTENCEPIECE_NAME), lowercase)
    if (directory / _JSON_NAME).is_file():
        return Tokenizer(JsonVocabulary(directory / _JSON_NAME), lowercase)
    raise UsageError(
        f"The tokenizer {name_or_dir!r} is neither 'captions' nor a directory that holds "
        f"{_SENTENCEPIECE_NAME} or {_JSON_NAME}."
    )


def _require_t5_ids(path: Path, pad_id: int | None, eos_id: int | None) -> None:
    if (pad_id, eos_id) != (PAD_ID, EOS_ID):
        raise UsageError(
            f"{path} has padding id {pad_id} and </s> id {eos_id}; T5's are {PAD_ID} and {EOS_ID}."
        )


def _require_unigram(path: Path) -> None:
    model = read_object(path).get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "Unigram":
        raise UsageError(f"{path} holds a tokenizer of the model {shown(kind)}; T5's is 'Unigram'.")
