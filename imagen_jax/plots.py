"""Loss curves of training directories as one PNG."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from imagen_jax.errors import UsageError
from imagen_jax.training.metrics import METRICS_FILE

_WINDOW = 10
"""Logged steps in the running mean."""


def read_metrics(workdir: Path) -> dict[str, np.ndarray]:
    """Columns of `metrics.jsonl` in the order of steps.

    A run that was killed and resumed wrote some steps twice; the later line counts.

    Raises:
        UsageError: no such file, a line that is not JSON, or no line at all.
    """
    path = workdir / METRICS_FILE
    if not path.is_file():
        raise UsageError(f"{workdir} has no {METRICS_FILE}; it is no training directory.")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: line {error.lineno} is not JSON.") from error
    if not lines:
        raise UsageError(f"{path} is empty; the run has logged nothing yet.")
    by_step = {line["step"]: line for line in lines}
    rows = [by_step[step] for step in sorted(by_step)]
    return {name: np.array([row[name] for row in rows]) for name in rows[-1]}


def loss_curves(workdirs: Sequence[Path]) -> Image.Image:
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
