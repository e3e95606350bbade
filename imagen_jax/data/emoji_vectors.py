"""The packed emoji: words by concept, vectors by style, and their drawing at any size.

`vectors/*.json.xz` are made by `tools/pack_emoji.py`; their licences are in `licenses/`.
"""

import dataclasses
import functools
import io
import json
import lzma
from importlib import resources

import resvg_py
from PIL import Image

STYLES = ("noto", "twemoji", "fluent")


@dataclasses.dataclass(frozen=True)
class Concept:
    """What an emoji shows: its Unicode code points (the key) and its words."""

    key: str
    label: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str


def _read(name: str) -> dict[str, dict]:
    packed = resources.files("imagen_jax.data").joinpath("vectors", f"{name}.json.xz")
    return json.loads(lzma.decompress(packed.read_bytes()))


@functools.cache
def concepts() -> dict[str, Concept]:
    """Key -> concept, in emoji order."""
    return {
        key: Concept(key, **{**words, "keywords": tuple(words["keywords"])})
        for key, words in _read("concepts").items()
    }


@functools.cache
def vectors(style: str) -> dict[str, dict]:
    """Key -> `box` [left, top, width, height] and SVG `body`, of one of `STYLES`."""
    return _read(style)


def styles_of(key: str) -> tuple[str, ...]:
    """The styles that draw the concept."""
    return tuple(style for style in STYLES if key in vectors(style))


def svg(vector: dict) -> str:
    """A square SVG document with the vector's box centred in it."""
    left, top, width, height = vector["box"]
    side = max(width, height)
    corner = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="{corner} {side} {side}">{vector["body"]}</svg>'
    )


def rasterise(vector: dict, size: int, background: str | None = None) -> Image.Image:
    """The vector as an RGBA picture of `size` x `size`; without a background on nothing."""
    drawn = resvg_py.svg_to_bytes(
        svg(vector),
        background=background,
        width=size,
        height=size,
        dpi=96.0,  # The default leaves units such as px without a size.
        skip_system_fonts=True,
    )
    return Image.open(io.BytesIO(drawn)).convert("RGBA")


def to_png(vector: dict, size: int, background: str = "#ffffff") -> bytes:
    """The vector on a background, as an RGB PNG of `size` x `size`."""
    png = io.BytesIO()
    rasterise(vector, size, background).convert("RGB").save(png, "PNG")
    return png.getvalue()


def draw(style: str, key: str, size: int) -> bytes:
    """The concept in the style on white, as an RGB PNG of `size` x `size`."""
    return to_png(vectors(style)[key], size)
