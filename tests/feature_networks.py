"""What tests of several parts need of the networks that pictures are measured by."""

import json
import lzma
import string
from pathlib import Path

from golden import inception_weights

from imagen_jax.weights.inception_names import inception_names

INCEPTION = Path(__file__).parent / "golden" / "inception"
INCEPTION_SHAPES = json.loads(lzma.decompress((INCEPTION / "shapes.json.xz").read_bytes()))
"""Of each tensor of the published file."""
MERGES = ("r e", "re d</w>", "a p", "ap p", "l e</w>", "app le</w>")
MERGED = ["re", "red</w>", "ap", "app", "le</w>", "apple</w>"]
ENDS = ["<|startoftext|>", "<|endoftext|>"]


def drawn_inception():
    """The weights that the golden was made with, where they belong; kernels from behind."""
    params = {}
    for name, path in inception_names().items():
        shape, target = tuple(INCEPTION_SHAPES[name]), params
        for key in path[:-1]:
            target = target.setdefault(key, {})
        value = inception_weights.weights(name, shape)
        target[path[-1]] = value.T if path[-1] == "kernel" else value
    return params


def write_clip_vocabulary(directory, letters=string.ascii_lowercase):
    """A vocabulary of CLIP's kind with few merges; gives the id of each piece."""
    pieces = [*letters, *(letter + "</w>" for letter in letters), *MERGED, *ENDS]
    ids = {piece: number for number, piece in enumerate(pieces)}
    (directory / "vocab.json").write_text(json.dumps(ids))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    return ids
