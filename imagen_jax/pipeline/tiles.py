"""Pictures that are denoised tile by tile, so that activations are those of one tile.

In every step each tile is predicted by itself, and where tiles overlap their predictions are
averaged, one going out as the other comes in (Bar-Tal et al. 2023). Noise, guidance and
thresholding are of the whole picture: z, the estimate, and a sum for each part of the guidance are
what a step keeps of it. A network without norms over the picture and without self-attention would
predict the same; these see one tile in place of the picture.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from imagen_jax.arrays import Features, Images, LogSNR
from imagen_jax.conditions import Conditions
from imagen_jax.config import StageConfig
from imagen_jax.config.data import Size
from imagen_jax.diffusion.process import Predicted
from imagen_jax.errors import UsageError
from imagen_jax.models.conditional import Encoded
from imagen_jax.models.layers import at_size_of

Ramp = Float32[np.ndarray, " _"]
"""What rows or columns count."""
_OVERLAP = 4
"""A tile's side by the least width in which it overlaps the next one."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Where the tiles of a picture lie.

    Attributes:
        size: (height, width) of every tile.
        corners: row and column of the first pixel of each.
        upscale: the picture's height by that of what is enlarged, of which corners are multiples.
    """

    size: Size
    corners: tuple[tuple[int, int], ...]
    upscale: int

    @property
    def ramps(self) -> tuple[Ramp, Ramp]:
        """How much each row and each column of a tile counts: the less the nearer to its border."""
        places = [np.arange(side) for side in self.size]
        rows, columns = (
            np.minimum(np.minimum(place, place[::-1]) + 1, len(place) // _OVERLAP)
            for place in places
        )
        return rows.astype(np.float32), columns.astype(np.float32)

    def totals(self, whole: Size) -> tuple[Ramp, Ramp]:
        """The sum of all tiles' ramps in each row and in each column of a picture: tiles stand in
        rows and columns, so the sum of their weights in a pixel is a product of the two."""
        sums = []
        for axis, ramp in enumerate(self.ramps):
            total = np.zeros(whole[axis], np.float32)
            for start in {corner[axis] for corner in self.corners}:
                total[start : start + len(ramp)] += ramp
            sums.append(total)
        return sums[0], sums[1]


def tiling_of(config: StageConfig, size: Size, tile: int | None) -> Tiling | None:
    """The tiles of a super-resolution stage; None where one is as large as the picture.

    Args:
        size: (height, width) of the picture.
        tile: side of a tile.

    Raises:
        UsageError: the network does not divide such a tile.
    """
    if tile is None or config.low_resolution is None:
        return None
    divisor = int(np.lcm(config.unet.size_divisor, config.upscale))
    if not isinstance(tile, int) or tile < divisor * _OVERLAP or tile % divisor:
        raise UsageError(
            f"tile is {tile!r}; it must be a multiple of {divisor} pixels, from "
            f"{divisor * _OVERLAP}, for the network of {config.name}."
        )
    height, width = (min(tile, side) for side in size)
    if (height, width) == tuple(size):
        return None
    rows, columns = (_starts(side, tile, config.upscale) for side in size)
    corners = tuple((row, column) for row in rows for column in columns)
    return Tiling((height, width), corners, config.upscale)


def tiled(
    predict: Callable[[Images, LogSNR, Encoded], Predicted],
    encoded: Encoded,
    tiling: Tiling,
    count: int,
) -> Callable[[Images, LogSNR], Predicted]:
    """A prediction of whole pictures by one of tiles.

    Args:
        predict: of a tile.
        encoded: what the network is told of whole pictures.
        count: of pictures; a batch has them once, or again for each part of its guidance.
    """
    size = tiling.size

    def predict_whole(z: Images, log_snr: LogSNR) -> Predicted:
        # The pictures once: so XLA never makes the copies of them that it was given.
        once, parts, totals = z[:count], len(z) // count, tiling.totals(z.shape[1:3])

        def of_tile(corner: jax.Array) -> Predicted:
            tile = jnp.concatenate([_part(once, corner, size)] * parts)
            return predict(tile, log_snr, _told(encoded, once, tiling, corner))

        def add(sums: Predicted, corner: jax.Array) -> tuple[Predicted, None]:
            shares = _shares(tiling, totals, corner)

            def added(total: Features, new: Features) -> Features:
                there = _part(total, corner, size) + shares * new
                return jax.lax.dynamic_update_slice(total, there, (0, *corner, 0))

            return jax.tree.map(added, sums, of_tile(corner)), None

        corners = jnp.array(tiling.corners, jnp.int32)
        shapes = jax.eval_shape(of_tile, corners[0])
        zeros = jax.tree.map(lambda x: jnp.zeros((*z.shape[:3], x.shape[-1])), shapes)
        return jax.lax.scan(add, zeros, corners)[0]

    return predict_whole


def _starts(side: int, tile: int, step: int) -> list[int]:
    """Where tiles begin along a side: even, each a multiple of `step`, the last at the end."""
    room = max(side - tile, 0)
    count = -(-room // (tile - tile // _OVERLAP)) + 1
    return [round(room * i / max(count - 1, 1) / step) * step for i in range(count)]


def _part(x: Features, corner: jax.Array, size: Size) -> Features:
    return jax.lax.dynamic_slice(x, (0, *corner, 0), (len(x), *size, x.shape[-1]))


def _told(encoded: Encoded, z: Images, tiling: Tiling, corner: jax.Array) -> Encoded:
    """What is told of a tile: the same part of each picture, in its own pixels."""
    size, upscale = tiling.size, tiling.upscale

    def part(picture: jax.Array) -> jax.Array:
        scale = upscale if picture.shape[1] * upscale == z.shape[1] else 1
        picture = picture if scale > 1 else at_size_of(z, picture)
        return _part(picture, corner // scale, (size[0] // scale, size[1] // scale))

    others: Conditions = encoded.others
    pictures = {name: part(picture) for name, picture in others.pictures.items()}
    return encoded.replace(others=dataclasses.replace(others, pictures=pictures))


def _shares(
    tiling: Tiling, totals: tuple[Ramp, Ramp], corner: jax.Array
) -> Float[jax.Array, "height width 1"]:
    """How much each pixel of a tile counts, of all tiles in its place."""
    rows, columns = (
        ramp / jax.lax.dynamic_slice(jnp.asarray(total), (start,), (len(ramp),))
        for ramp, total, start in zip(tiling.ramps, totals, corner, strict=True)
    )
    return (rows[:, None] * columns)[:, :, None]
