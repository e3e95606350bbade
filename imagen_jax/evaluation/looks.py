"""What can be seen of a picture without knowing what it shows: background, colour, sharpness.

A picture's background is the median colour of its border; its object is what differs from that.
"""

import math

import numpy as np
from jax.scipy import ndimage
from jaxtyping import Bool, Float, UInt8

from imagen_jax.data import emoji_colours

Picture = UInt8[np.ndarray, "height width 3"]
Colour = UInt8[np.ndarray, "3"]
Pictures = UInt8[np.ndarray, "pictures height width 3"]
LargePictures = UInt8[np.ndarray, "pictures large_height large_width 3"]
Shares = Float[np.ndarray, "height width"]
Profiles = Float[np.ndarray, "edges samples"]

NEAR_WHITE = 3
"""In each channel, of 255."""
DIFFERENT = 32
"""A pixel is part of the object if any channel differs from the background by more than this."""
REACH = 24
"""Pixels to each side of an edge that are looked at: wider edges have no rise."""
EDGES = 64
"""At most so many edges of a picture are measured, the strongest."""
_CELL = 16
"""No more than one edge of a square of this side is measured."""
_PER_PIXEL = 4
"""Samples along the normal of an edge."""


def background(picture: Picture) -> Colour:
    """The median colour of the outermost pixels."""
    sides = picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]
    return np.median(np.concatenate(sides), axis=0).round().astype(np.uint8)


def background_name(picture: Picture) -> str:
    """Which of `emoji_colours.BACKGROUNDS` the background is nearest to."""
    return emoji_colours.ground_of(background(picture))


def is_on_white(picture: Picture) -> bool:
    """Is the background within `NEAR_WHITE` of white?"""
    return bool((background(picture) >= 255 - NEAR_WHITE).all())


def _object(picture: Picture) -> Bool[np.ndarray, "height width"]:
    difference = np.abs(picture.astype(int) - background(picture))
    return difference.max(-1) > DIFFERENT


def object_colour(picture: Picture) -> str:
    """Which of `emoji_colours.HUES` most of the object has; "" where it has no hue."""
    return emoji_colours.name_of(picture[_object(picture)])


def colour_drift(small: Pictures, large: LargePictures) -> float:
    """How far a stage moves the mean colour of what it enlarges: mean absolute difference of 255.

    A box filter leaves a picture's mean as it is, so the large ones need not be reduced.
    """
    means = [pictures.mean((1, 2), dtype=np.float64) for pictures in (small, large)]
    return float(np.abs(means[0] - means[1]).mean())


def edge_rise(picture: Picture) -> float:
    """Pixels in which the object's outline rises from 10 to 90%; NaN where no edge is found.

    The median over the strongest edges against the background. Along the normal of an edge the
    distance from the background's colour is followed as long as it rises; of what it rises by, the
    places of 10 and 90% are found by linear interpolation. A step that a Gaussian of standard
    deviation s has blurred takes 2.563 s; where s is 1 the measured rise is a tenth wider, for
    interpolation blurs too.
    """
    shares = _distance_from_background(picture)
    rows, columns, normals = _strongest_edges(shares)
    profiles = _along_normals(shares, rows, columns, normals)
    rises = [_rise(profile) for profile in profiles]
    return float(np.nanmedian(rises)) if np.isfinite(rises).any() else math.nan


def _distance_from_background(picture: Picture) -> Shares:
    """How far each pixel is from the background, 1 at most; linear where an edge is blended."""
    distance = np.linalg.norm(picture.astype(np.float64) - background(picture), axis=-1)
    return distance / max(distance.max(), 1.0)


def _strongest_edges(
    shares: Shares,
) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, " edges"], Float[np.ndarray, "edges 2"]]:
    """Rows, columns and unit normals, which point into the object; none at the border."""
    gradient = np.stack(np.gradient(shares), -1)
    slope = np.linalg.norm(gradient, axis=-1)
    slope[:REACH], slope[-REACH:], slope[:, :REACH], slope[:, -REACH:] = 0, 0, 0, 0
    height, width = (side // _CELL for side in shares.shape)
    cells = slope[: height * _CELL, : width * _CELL].reshape(height, _CELL, width, _CELL)
    cells = cells.swapaxes(1, 2).reshape(height * width, _CELL * _CELL)
    chosen = np.argsort(cells.max(1), kind="stable")[::-1][:EDGES]
    chosen = chosen[cells[chosen].max(1) > 0]
    inside = cells[chosen].argmax(1)
    rows = chosen // width * _CELL + inside // _CELL
    columns = chosen % width * _CELL + inside % _CELL
    normals = gradient[rows, columns] / slope[rows, columns, None]
    return rows.astype(float), columns.astype(float), normals


def _along_normals(
    shares: Shares, rows: np.ndarray, columns: np.ndarray, normals: np.ndarray
) -> Profiles:
    """Bilinear samples from `REACH` outside of each edge to as far inside."""
    steps = np.arange(-REACH * _PER_PIXEL, REACH * _PER_PIXEL + 1) / _PER_PIXEL
    places = [x[:, None] + steps * normals[:, axis, None] for axis, x in enumerate((rows, columns))]
    return np.asarray(ndimage.map_coordinates(shares, places, order=1), np.float64)


def _rise(profile: Float[np.ndarray, " samples"]) -> float:
    """Pixels from 10 to 90% of the rise through the middle; NaN if it is not from the
    background, or has no end."""
    middle = len(profile) // 2
    falls = np.flatnonzero(np.diff(profile) < 0)
    start = falls[falls < middle].max(initial=-1) + 1
    end = falls[falls >= middle].min(initial=len(profile) - 1)
    run = profile[start : end + 1]
    low, high = run[0], run[-1]
    if low > 0.1 * high or high == low:
        return math.nan
    crossings = np.interp([0.1, 0.9], (run - low) / (high - low), np.arange(len(run)))
    return float(np.ptp(crossings)) / _PER_PIXEL
