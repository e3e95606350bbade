"""Emoji in other colours and on other backgrounds, each colour named exactly.

A vector's main colour is that of the hue that covers most of it. To turn it, every colour of the
vector near that hue is moved in OKLab (Ottosson 2020, "A perceptual color space for image
processing"), so that shading stays: a red apple with a dark edge becomes a blue apple with a dark
edge. A turned vector counts only if what is drawn bears the colour's name by `name_of`.
"""

import functools
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8

from imagen_jax.data import emoji_vectors

Pixels = UInt8[np.ndarray, "*shape 3"]
OKLab = Float[np.ndarray, "*shape 3"]

HUES: Mapping[str, str] = {
    "red": "#e53935",
    "orange": "#fb8c00",
    "yellow": "#fdd835",
    "green": "#43a047",
    "blue": "#1e88e5",
    "purple": "#8e44ad",
    "pink": "#f06fa8",
    "brown": "#8a5a3c",
}
"""The colours that objects have by name."""
BACKGROUNDS: Mapping[str, str] = HUES | {"black": "#212121", "grey": "#9e9e9e", "white": "#ffffff"}
"""The colours that backgrounds have by name."""
MAIN_SHARE = 0.45
"""A vector has a main colour if its hue covers at least this share of it."""
HUE_WIDTH = np.radians(38.0)
"""How far from the main hue a colour counts as its shade."""
MIN_CHROMA = 0.04
"""OKLab chroma below which a colour is black, grey or white."""
TRUE_DISTANCE = 0.1
"""A main colour that is nearer to its name's colour than this (see `_distances`) is left alone."""
_SIDE = 64
_LIGHTNESS_WEIGHT = 0.5
"""Of lightness beside hue and chroma in telling colours apart: shading changes lightness."""
_HEX = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})(?![0-9a-zA-Z])")
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def to_oklab(rgb: Pixels) -> OKLab:
    """sRGB of 0 to 255 -> (lightness 0 to 1, a, b)."""
    x = rgb / 255.0
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T


def to_rgb(lab: OKLab) -> Pixels:
    """The inverse of `to_oklab`; what no screen shows is clipped."""
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T
    linear = np.clip(linear, 0, 1)
    x = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * x).astype(np.uint8)


def from_hex(text: str) -> Pixels:
    """#rgb or #rrggbb -> [3]."""
    digits = text[1:] if len(text) == 7 else "".join(2 * digit for digit in text[1:])
    return np.array(list(bytes.fromhex(digits)), np.uint8)


def to_hex(rgb: Pixels) -> str:
    return "#" + bytes(rgb.tolist()).hex()


_ANCHORS = np.stack([to_oklab(from_hex(c)) for c in BACKGROUNDS.values()])


def _distances(lab: OKLab) -> Float[np.ndarray, "pixels anchors"]:
    """The distance of each pixel, [N, 3], from each colour that backgrounds have."""
    squares = np.square(lab[:, None] - _ANCHORS)
    return np.sqrt(squares @ np.array([_LIGHTNESS_WEIGHT, 1.0, 1.0]))


def ground_of(rgb: Pixels) -> str:
    """Which of `BACKGROUNDS` one colour, [3], is nearest to."""
    return list(BACKGROUNDS)[_distances(to_oklab(rgb[None])).argmin()]


def name_of(rgb: Pixels) -> str:
    """Which of `HUES` most of the pixels, [..., 3], are nearest to; "" where they have no hue.

    Pixels that are nearest to black, grey or white have no say.
    """
    nearest = _distances(to_oklab(rgb.reshape(-1, 3))).argmin(1)
    votes = np.bincount(nearest, minlength=len(_ANCHORS))[: len(HUES)]
    return list(HUES)[votes.argmax()] if votes.any() else ""


def _hue(lab: OKLab) -> Float[np.ndarray, "*shape"]:
    return np.asarray(np.arctan2(lab[..., 2], lab[..., 1]))


def _near(lab: OKLab, hue: float) -> Bool[np.ndarray, "*shape"]:
    """Which colours are shades of the hue."""
    turn = np.angle(np.exp(1j * (_hue(lab) - hue)))
    near = (np.abs(turn) < HUE_WIDTH) & (np.hypot(lab[..., 1], lab[..., 2]) > MIN_CHROMA)
    return np.asarray(near)


def _opaque(vector: dict) -> Pixels:
    """[N, 3], the pixels that the vector covers when drawn small."""
    drawn = np.asarray(emoji_vectors.rasterise(vector, _SIDE))
    return drawn[drawn[..., 3] > 200][:, :3]


@functools.cache
def main_colour(style: str, key: str) -> tuple[float, float, float] | None:
    """The median OKLab colour of the hue that covers most of the vector; None if none does."""
    lab = to_oklab(_opaque(emoji_vectors.vectors(style)[key]))
    shades = [_near(lab, hue) for hue in np.radians(np.arange(0, 360, 10))]
    largest = max(shades, key=np.count_nonzero)
    if largest.mean() < MAIN_SHARE:
        return None
    return tuple(np.median(lab[largest], axis=0).tolist())


@functools.cache
def natural_colour(style: str, key: str) -> str:
    """The name of the vector's main colour as its artist chose it; "" if it has none."""
    if main_colour(style, key) is None:
        return ""
    return name_of(_opaque(emoji_vectors.vectors(style)[key]))


@functools.cache
def turned(style: str, key: str, colour: str) -> dict | None:
    """The vector with its main colour turned to one of `HUES`; as it is where it has that colour.

    None where it has no main colour or where what is drawn would not bear the name.
    """
    vector = emoji_vectors.vectors(style)[key]
    if not (natural := natural_colour(style, key)):
        return None
    main, target = np.array(main_colour(style, key)), to_oklab(from_hex(HUES[colour]))
    if natural == colour and _distances(main[None])[0, list(HUES).index(colour)] < TRUE_DISTANCE:
        return vector
    body = _HEX.sub(lambda match: _turn(match[0], main, target), vector["body"])
    result = vector | {"body": body}
    return result if name_of(_opaque(result)) == colour else None


def _turn(text: str, main: OKLab, target: OKLab) -> str:
    """A colour of an SVG moved as `main` moves to `target`, if it is a shade of `main`."""
    lab = to_oklab(from_hex(text))
    if not _near(lab, float(_hue(main))):
        return text
    hue = _hue(target) + 0.3 * np.angle(np.exp(1j * (_hue(lab) - _hue(main))))
    chroma = np.hypot(*lab[1:]) * np.hypot(*target[1:]) / np.hypot(*main[1:])
    lightness = np.clip(target[0] + lab[0] - main[0], 0.05, 0.98)
    return to_hex(to_rgb(np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])))


def draw(style: str, key: str, colour: str, background: str, size: int) -> bytes:
    """The concept in the style as an RGB PNG of `size` x `size`.

    Args:
        colour: of `HUES`, one that `turned` can give; "" for the artist's.
        background: of `BACKGROUNDS`; "" for white.
    """
    vector = turned(style, key, colour) if colour else emoji_vectors.vectors(style)[key]
    return emoji_vectors.to_png(vector, size, BACKGROUNDS[background or "white"])
