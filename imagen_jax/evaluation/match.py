"""How a small CLIP matches pictures of emoji with prompts.

The package ships it. It has read true pictures alone, of 32 pixels, with their captions
(`tools/train_clip.py`). What it says is no CLIP score, which is of the published networks.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from imagen_jax.evaluation.cases import Case
from imagen_jax.evaluation.clip_texts import embed_texts
from imagen_jax.evaluation.reading import Reading
from imagen_jax.evaluation.run import open_here
from imagen_jax.pipeline.shipped import PRETRAINED

SHIPPED = PRETRAINED / "clip"
_BATCH = 16


class Matcher:
    """Says whether a picture is nearer to its own prompt than to the others of its kind."""

    def __init__(self) -> None:
        """Reads the shipped CLIP, to the devices of this process."""
        self._network = open_here("clip", SHIPPED, Reading("whole", "lanczos"))

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""
        return self._network.weights

    def __call__(
        self, cases: Sequence[Case], pictures: UInt8[np.ndarray, "pictures height width 3"]
    ) -> list[bool]:
        """Of each case's picture, by the cosines of their embeddings.

        Args:
            cases: one a picture; several pictures may be of the same.
        """
        asked = list(dict.fromkeys(cases))
        texts = _to_unit(
            embed_texts(self._network, SHIPPED, [case.prompt for case in asked], batch_size=_BATCH)
        )
        read = map(self._network.reading, pictures)
        seen = _to_unit(np.concatenate(list(self._network(read, _BATCH))))
        same_kind = np.array([[case.kind == other.kind for other in asked] for case in cases])
        nearest = np.where(same_kind, seen @ texts.T, -np.inf).argmax(1)
        return [asked[number] == case for number, case in zip(nearest, cases, strict=True)]


def _to_unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
