"""Curves from metrics.jsonl."""

import json

import numpy as np
import pytest

from imagen_jax.errors import UsageError
from imagen_jax.plots import loss_curves, read_metrics

GOOD = b'{"step": 1, "loss": 2.0, "pictures_seen": 8}\n'


def write(workdir, steps, loss=1.0):
    lines = [{"step": s, "loss": loss / (s + 1), "pictures_seen": 8 * s} for s in steps]
    workdir.mkdir(exist_ok=True)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return workdir


def test_a_resumed_run_overwrites_the_steps_it_repeats(tmp_path):
    workdir = write(tmp_path / "run", range(6))
    write(workdir, range(4, 8), loss=2.0)
    metrics = read_metrics(workdir)
    np.testing.assert_array_equal(metrics["pictures_seen"], 8 * np.arange(8))
    np.testing.assert_allclose(metrics["loss"][3:6], [1 / 4, 2 / 5, 2 / 6])


CURVE = (31, 119, 180)
"""matplotlib's C0."""


def test_each_run_gets_a_panel_with_a_curve(tmp_path):
    runs = [write(tmp_path / name, range(30)) for name in ("a", "b")]
    one, two = loss_curves(runs[:1]), loss_curves(runs)
    assert two.width == 2 * one.width
    pixels = np.asarray(two.convert("RGB"))
    for panel in (pixels[:, : one.width], pixels[:, one.width :]):
        assert (panel == CURVE).all(-1).sum() > 100


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "no metrics.jsonl"),
        (b"", "empty"),
        (GOOD + b"{", "line 2 .*JSONDecodeError"),
        (GOOD + GOOD + b'{"step": 1, "loss": "\xff"}\n' + GOOD, "line 3 .*UnicodeDecodeError"),
        (b"[1]\n", "line 1 .*TypeError"),
        (b'{"step": 1, "loss": 2.0}\n', "line 1 .*'pictures_seen'"),
        (GOOD + b'{"step": 1, "loss": "low", "pictures_seen": 8}\n', "line 2 .*'low'"),
    ],
)
def test_what_is_no_run_is_an_error(tmp_path, content, rule):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=rule):
        read_metrics(tmp_path)
