"""The curves of a sweep, as the paper's appendix D draws them.

Across is how well pictures fit their prompts, up is how far they are from true ones.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from imagen_jax.evaluation.axes import Axis, Point

_GREY = "#52514e"


class Measured(NamedTuple):
    """A point and its two figures by their names, what is across and what is up."""

    point: Point
    figures: dict[str, float]


def draw(axes: Sequence[Axis], measured: Sequence[Measured]) -> Image.Image:
    """A curve over the values of the first axis for each combination of the others."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    plot = figure.subplots()
    first = axes[0].name
    groups: dict[str, list[Measured]] = {}
    for one in measured:
        others = ", ".join(f"{name} {x}" for name, x in one.point.items() if name != first)
        groups.setdefault(others, []).append(one)
    for label, of in groups.items():
        places = [tuple(one.figures.values()) for one in of]
        plot.plot(*zip(*places, strict=True), marker="o", markersize=4, label=label)
        for one, place in zip(of, places, strict=True):
            plot.annotate(
                str(one.point[first]),
                place,
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
                color=_GREY,
            )
    across, up = measured[0].figures
    plot.set_xlabel(across)
    plot.set_ylabel(up)
    plot.set_title(f"over {first}", loc="left", fontsize=11)
    plot.grid(color="#e6e6e6", lw=0.8)
    plot.spines[["top", "right"]].set_visible(False)
    if list(groups) != [""]:
        plot.legend(frameon=False, fontsize=9)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return Image.open(png)
