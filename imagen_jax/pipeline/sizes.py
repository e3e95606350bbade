"""How large a cascade's pictures are: the base's size decides that of every stage after it."""

import math
import operator
import re
from collections.abc import Sequence

from imagen_jax.config import StageConfig
from imagen_jax.config.data import LARGEST_SIDE, Size
from imagen_jax.errors import UsageError

_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


def parse_size(text: str) -> Size:
    """The (height, width) that `64x96` says.

    Raises:
        UsageError: it is none.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"size is {text!r}; it must be a height and a width, such as 64x96.")
    return int(match[1]), int(match[2])


def parse_aspect(text: str) -> float:
    """Width by height, of `3:2`, which is wider than high.

    Raises:
        UsageError: it is none.
    """
    width, colon, height = str(text).partition(":")
    try:
        parts = float(width), float(height)
    except ValueError:
        parts = (0.0, 0.0)
    if not colon or not all(0 < part < math.inf for part in parts):
        raise UsageError(
            f"aspect is {text!r}; it must be a width and a height, both positive, such as 3:2."
        )
    return parts[0] / parts[1]


def stage_sizes(
    configs: Sequence[StageConfig],
    size: Sequence[int] | str | None = None,
    aspect: str | None = None,
) -> list[Size]:
    """(height, width) of what every stage paints.

    Args:
        configs: of the stages, from the base up.
        size: (height, width) of the base's pictures, or of those that a first super-resolution
            stage is given; or as text, `64x96`.
        aspect: their width : height, instead; their area is about that of those trained on. With
            neither, every stage's are as large as those.

    Raises:
        UsageError: there is no such size, or a network of the cascade does not divide it.
    """
    if size is not None and aspect is not None:
        raise UsageError(f"size is {size!r} and aspect is {aspect!r}; give one of them.")
    if size is None and aspect is None:
        return [(config.resolution, config.resolution) for config in configs]
    divisor = base_divisor(configs)
    if aspect is not None:
        height, width = _of_aspect(aspect, _first_side(configs), divisor)
    else:
        height, width = _whole(size)
    scales = [math.prod(c.upscale for c in configs[: i + 1]) for i in range(len(configs))]
    most = LARGEST_SIDE // scales[-1]
    for side, what in ((height, "height"), (width, "width")):
        if side < divisor or side % divisor or side > most:
            raise UsageError(
                f"size is {height}x{width}; the {what} {side} must be a multiple of {divisor}, "
                f"from {divisor} to {most // divisor * divisor}, for the networks of "
                f"{', '.join(config.name for config in configs)}."
            )
    return [(height * scale, width * scale) for scale in scales]


def size_of_picture(
    configs: Sequence[StageConfig], picture: Size, *, of_any_size: bool = False
) -> Size:
    """The first size of a cascade that suits a picture of this (height, width).

    That is the one at which the last stage's pictures, or those that the first stage takes where
    it is a super-resolution stage, are as large as the picture, if there is one and its area is
    from half to twice the one trained on; else the nearest ratio.

    Args:
        of_any_size: a first super-resolution stage takes the picture as large as it is, to the
            nearest size that the networks divide.
    """
    first, divisor = _first_side(configs), base_divisor(configs)
    if of_any_size and configs[0].low_resolution is not None:
        height, width = (divisor * max(1, round(side / divisor)) for side in picture)
        return height, width
    scale = math.prod(c.upscale for c in configs) if configs[0].low_resolution is None else 1
    whole = all(side % (scale * divisor) == 0 for side in picture)
    if whole and 0.5 <= math.prod(picture) / (first * scale) ** 2 <= 2:
        return picture[0] // scale, picture[1] // scale
    return _of_aspect(f"{picture[1]}:{picture[0]}", first, divisor)


def base_divisor(configs: Sequence[StageConfig]) -> int:
    """What height and width of the base's pictures must be multiples of, for every stage."""
    scale = divisor = 1
    for config in configs:
        scale *= config.upscale
        own = config.unet.size_divisor
        divisor = math.lcm(divisor, own // math.gcd(own, scale))
    return divisor


def _first_side(configs: Sequence[StageConfig]) -> int:
    """The side of what the base paints, or of what a first super-resolution stage is given."""
    return configs[0].low_resolution or configs[0].resolution


def _whole(size: Sequence[int] | str) -> Size:
    if isinstance(size, str):
        return parse_size(size)
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        raise UsageError(
            f"size is {size!r}; it must be two whole numbers, height and width, such as (64, 96)."
        ) from None
    return height, width


def _of_aspect(aspect: str, resolution: int, divisor: int) -> Size:
    ratio = parse_aspect(aspect)
    sides = (resolution / math.sqrt(ratio), resolution * math.sqrt(ratio))
    height, width = (divisor * round(min(side / divisor, LARGEST_SIDE)) for side in sides)
    if not (height and width):
        raise UsageError(
            f"aspect is {aspect!r}; of a picture with the area of {resolution}x{resolution} "
            f"pixels one side would be less than {divisor} pixels, the least that the networks "
            "divide."
        )
    return height, width
