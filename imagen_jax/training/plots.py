"""Curves of training directories as one PNG, the runs laid over each other."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator
from PIL import Image

from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import is_number
from imagen_jax.training.metrics_file import Line, read_metrics

_WINDOW = 10
"""Logged steps in the running mean of a long run; of a short one, an eighth of it."""
_END = 0.1
"""Share of a run, at its end, that the loss by time is taken from."""
_COLUMNS = 3
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of the runs, over and over: Okabe and Ito's, which the colour-blind tell apart too."""
_DASHES = ("-", (0, (3, 1.5)))
_GREY = "#555555"


@dataclasses.dataclass(frozen=True)
class Panel:
    """One quantity, of all runs.

    Attributes:
        title: in words.
        names: in metrics.jsonl; a second one is dashed.
        labels: what tells these apart.
        often: logged with every interval, so that a running mean is wanted.
    """

    title: str
    names: tuple[str, ...]
    labels: tuple[str, ...] = ()
    often: bool = True


PANELS = (
    Panel("loss", ("loss",)),
    Panel("loss on held-out pictures", ("eval_loss_ema", "eval_loss_raw"), ("EMA", "raw"), False),
    Panel("loss by time, end of the run", ("loss_by_time",)),
    Panel("pictures per second", ("pictures_per_second",)),
    Panel("gradient norm", ("gradient_norm",)),
    Panel("colour drift of the samples", ("colour_drift",), often=False),
)
"""In this order; what no run has measured is left out."""


def curve(lines: Sequence[Line], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures seen and values, of the lines that hold a number `name` that can be drawn."""
    points = [(line["pictures_seen"], line[name]) for line in lines if is_number(line.get(name))]
    seen, values = np.array(points, float).reshape(-1, 2).T
    return seen, values


def running_mean(values: np.ndarray) -> np.ndarray:
    """The mean of each value and its neighbours, `_WINDOW` together; fewer at the ends."""
    window = np.ones(max(1, min(_WINDOW, len(values) // 8)))
    counts = np.convolve(np.ones_like(values), window, "same")
    return np.convolve(values, window, "same") / counts


def by_time(lines: Sequence[Line]) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the bins of t and their mean loss over the last tenth of a run.

    Of lines with another number of bins than the last one, none counts.
    """
    found = [line.get("loss_by_time") for line in lines]
    lists = [row for row in found if isinstance(row, list)] or [[]]
    rows = [row for row in lists if len(row) == len(lists[-1])]
    rows = rows[-max(1, round(_END * len(rows))) :]
    last = np.array([[x if is_number(x) else np.nan for x in row] for row in rows], float)
    known = np.isfinite(last).any(0)
    middles = (np.arange(last.shape[1]) + 0.5) / last.shape[1]
    return middles[known], np.nanmean(last[:, known], 0)


def draw_curves(workdirs: Sequence[AnyPath]) -> Image.Image:
    """A panel for each quantity, in it a curve for each run.

    Raises:
        UsageError: as `read_metrics`, or nothing is there to draw.
    """
    runs = [read_metrics(workdir) for workdir in workdirs]
    panels = [p for p in PANELS if any(line.get(p.names[0]) for run in runs for line in run)]
    if not panels:
        raise UsageError("There is nothing to draw: none of these runs has logged a loss yet.")
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, panel in zip(axes, panels, strict=False):
        for number, run in enumerate(runs):
            _draw(axis, panel, run, COLOURS[number % len(COLOURS)])
        _dress(axis, panel, max(run[-1]["pictures_seen"] for run in runs))
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles = [Line2D([], [], color=COLOURS[n % len(COLOURS)], lw=2) for n in range(len(runs))]
    figure.legend(
        handles,
        _labels(workdirs),
        loc="outside upper left",
        ncols=max(2, 2 * columns),
        frameon=False,
    )
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return Image.open(png)


def _draw(axis: Axes, panel: Panel, run: Sequence[Line], colour: str) -> None:
    """One run: faint as logged and strong as running mean, or point by point."""
    if panel.names == ("loss_by_time",):
        if any("loss_by_time" in line for line in run):
            axis.plot(*by_time(run), color=colour, marker="o", markersize=3.5)
        return
    for name, dashes in zip(panel.names, _DASHES, strict=False):
        seen, values = curve(run, name)
        if panel.often and len(values) > 1:
            axis.plot(seen, values, color=colour, alpha=0.25, lw=1)
            axis.plot(seen, running_mean(values), color=colour, lw=1.8, ls=dashes)
        else:
            axis.plot(seen, values, color=colour, lw=1.5, ls=dashes, marker="o", markersize=3.5)


def _dress(axis: Axes, panel: Panel, most_seen: int) -> None:
    """Title, scales and what the dashes mean."""
    axis.set_title(panel.title, loc="left", fontsize=11)
    axis.grid(color="#e6e6e6", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9, color=_GREY, labelcolor=_GREY)
    if panel.names == ("loss_by_time",):
        axis.set_xlabel("t: 0 is the picture, 1 is noise", color=_GREY)
        axis.set_xlim(0, 1)
    else:
        axis.set_xlabel("pictures seen", color=_GREY)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlim(0, 1.02 * most_seen)
    values = np.concatenate([[], *(line.get_ydata() for line in axis.lines)])
    if len(values) and values.min() > 0 and values.max() > 3 * values.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    if panel.labels:
        styles = [Line2D([], [], color=_GREY, ls=dashes) for dashes in _DASHES]
        axis.legend(styles, panel.labels, frameon=False, fontsize=9)


def _labels(workdirs: Sequence[AnyPath]) -> list[str]:
    """Names of the directories; with their parents' where two are the same."""
    names = [workdir.name for workdir in workdirs]
    if len(set(names)) == len(names):
        return names
    return [f"{workdir.parent.name}/{workdir.name}" for workdir in workdirs]
