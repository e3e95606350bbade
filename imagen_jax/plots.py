"""Loss curves of training directories as one PNG."""

import io
import json
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from imagen_jax.errors import UsageError
from imagen_jax.files import AnyPath
from imagen_jax.training.metrics import METRICS_FILE

_WINDOW = 10
"""Logged steps in the running mean."""
_COLUMNS = ("step", "pictures_seen", "loss")


def read_metrics(workdir: AnyPath) -> dict[str, np.ndarray]:
    """Columns "step", "pictures_seen" and "loss" of `metrics.jsonl` in the order of steps.

    A run that was killed and resumed wrote some steps twice; the later line counts.

    Raises:
        UsageError: no such file, a line that is no JSON object with these, or no line at all.
    """
    path = workdir / METRICS_FILE
    if not path.is_file():
        raise UsageError(f"{workdir} has no {METRICS_FILE}; it is no training directory.")
    by_step = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            logged = json.loads(line)
            row = [float(logged[name]) for name in _COLUMNS]
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path}: line {number} is no line of metrics: {error!r}.") from error
        by_step[row[0]] = row
    if not by_step:
        raise UsageError(f"{path} is empty; the run has logged nothing yet.")
    rows = np.array([by_step[step] for step in sorted(by_step)])
    return dict(zip(_COLUMNS, rows.T, strict=True))


def loss_curves(workdirs: Sequence[AnyPath]) -> Image.Image:
    """Loss against pictures seen, one panel per run; faint as logged, strong as running mean."""
    figure = Figure(figsize=(5 * len(workdirs), 3.5), layout="constrained")
    for panel, workdir in zip(
        figure.subplots(1, len(workdirs), squeeze=False)[0], workdirs, strict=True
    ):
        metrics = read_metrics(workdir)
        seen, loss = metrics["pictures_seen"], metrics["loss"]
        window = min(_WINDOW, len(loss))
        mean = np.convolve(loss, np.ones(window) / window, "valid")
        panel.plot(seen, loss, alpha=0.3, color="C0")
        panel.plot(seen[window - 1 :], mean, color="C0")
        panel.set(title=workdir.name, xlabel="pictures seen", ylabel="loss", yscale="log")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return Image.open(png)
