"""Names of files from prompts in any script. No JAX here."""

import sys
import unicodedata

_MOST_BYTES = 100
"""Of a name's words; a file system takes 255 of a whole name, an encrypted one 143."""
_MOST_LETTERS = 40
_KEPT = "LMN"
"""Letters of any script with their marks, and digits: first letters of Unicode's categories."""


def file_stem(index: int, prompt: str, picture: int) -> str:
    """Number and words of the prompt and number of the picture, with nothing that a file system
    could take amiss."""
    spelled = "".join(map(_spelled, unicodedata.normalize("NFC", prompt.lower())))
    words = "-".join("".join(spelled).split())[:_MOST_LETTERS]
    data = words.encode(sys.getfilesystemencoding(), "ignore")[:_MOST_BYTES]
    return f"{index:02d}-{data.decode(sys.getfilesystemencoding(), 'ignore').strip('-')}-{picture}"


def _spelled(character: str) -> str:
    """A letter as it is, a pictograph by its name; a space for anything else."""
    if unicodedata.category(character)[0] in _KEPT and "VARIATION" not in _name(character):
        return character
    if unicodedata.category(character) == "So":
        return f" {_name(character).lower().replace('-', ' ')} "
    return " "


def _name(character: str) -> str:
    return unicodedata.name(character, "")
