"""The text encoder on the devices of one process, fed with captions of like length together."""

import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32, Shaped

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params, build_networks
from imagen_jax.parallel import mesh as meshes
from imagen_jax.stored.encoders import load_stage_tokenizer
from imagen_jax.text.tokenizer import EOS_ID, PAD_ID

_SHORTEST = 16
"""Tokens that a batch has at least: one program for each power of two from here on."""

Rows = Shaped[np.ndarray, "rows width"]


class CaptionEncoder:
    """Token ids of captions -> embeddings, bfloat16.

    What a caption becomes depends on the captions beside it by rounding alone.
    """

    def __init__(
        self, config: StageConfig, encoder: Params, mesh: Mesh, *, padded: bool, batch_tokens: int
    ):
        """`padded` keeps the rows of padding. `batch_tokens`, padding among them, go through a
        device at once."""
        networks = build_networks(config, functools.partial(meshes.gather_parameters, mesh=mesh))

        def embed(params, token_ids, mask):
            return networks.embed(params, token_ids, mask).astype(jnp.bfloat16)

        self._embed = jax.jit(embed, out_shardings=meshes.batch_sharding(mesh))
        self._params = {"text_encoder": encoder}
        self._mesh, self._padded, self._batch_tokens = mesh, padded, batch_tokens
        self._config, self._max_length = config, config.text_encoder.max_length

    def __call__(self, captions: Sequence[Int32[np.ndarray, " _"]]) -> Iterator[Rows]:
        """The rows of each caption, in order; captions of equal padded length stand together.

        Raises:
            UsageError: a row is not finite; the caption is named.
        """
        pending = None
        for batch in self._batches(captions):
            started = self._start(*batch)
            if pending is not None:  # The device is at work on the batch after it.
                yield from self._rows(*pending)
            pending = started, batch[1]
        if pending is not None:
            yield from self._rows(*pending)

    def _padded_length(self, caption: Int32[np.ndarray, " _"]) -> int:
        if self._padded:
            return self._max_length
        return min(_power_of_two(max(len(caption), _SHORTEST)), self._max_length)

    def _batches(
        self, captions: Sequence[Int32[np.ndarray, " _"]]
    ) -> Iterator[tuple[tuple[int, int], list[np.ndarray]]]:
        """Shape and captions of each batch."""
        parts = meshes.batch_parts(self._mesh)
        for length, group in itertools.groupby(captions, self._padded_length):
            group = list(group)
            # Per device the same however many there are; few sizes, as each is compiled.
            most = max(1, self._batch_tokens // length)
            size = min(most, _power_of_two(-(-len(group) // parts))) * parts
            for start in range(0, len(group), size):
                yield (size, length), group[start : start + size]

    def _start(self, shape: tuple[int, int], captions: list[np.ndarray]) -> jax.Array:
        token_ids, mask = np.full(shape, PAD_ID, np.int32), np.zeros(shape, bool)
        token_ids[:, 0], mask[:, 0] = EOS_ID, True  # Of rows that are left over.
        for row, caption in enumerate(captions):
            token_ids[row, : len(caption)] = caption
            mask[row, : len(caption)] = True
        placed = jax.device_put((token_ids, mask), meshes.batch_sharding(self._mesh))
        return self._embed(self._params, *placed)

    def _rows(self, embedded: jax.Array, captions: list[np.ndarray]) -> Iterator[Rows]:
        for rows, caption in zip(np.asarray(embedded), captions, strict=False):
            kept = rows if self._padded else rows[: len(caption)]
            if not np.isfinite(kept).all():
                text = load_stage_tokenizer(self._config).decode(caption.tolist())
                raise UsageError(
                    f"The text embedding of {text!r} holds numbers that are not finite."
                )
            yield kept


def _power_of_two(least: int) -> int:
    """The least power of two that is no less."""
    return 1 << (least - 1).bit_length()
