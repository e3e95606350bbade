"""Runs on data of which a part is broken."""

import json

import pytest
import tiny

from imagen_jax.errors import UsageError
from imagen_jax.training.loop import run


@pytest.fixture
def config(tmp_path):
    """Two of twelve pictures are none."""
    data = tiny.folder(tmp_path / "data")
    for number in (3, 7):
        (tmp_path / "data" / f"{number:02}.png").write_bytes(b"no picture")
    return tiny.stage(data=data)


@pytest.mark.slow
def test_a_run_goes_on_past_broken_records_and_logs_how_many(config, tmp_path, capsys):
    """One is known where captions are read; held-out pictures, which it asks for, it has none."""
    (tmp_path / "data" / "05.txt").write_text("\ufffd")
    changed = tiny.replace(config, data={"max_broken_share": 0.02}, training={"eval_every": 2})
    with (
        pytest.warns(UserWarning, match="left out: 0[37].png: picture undecodable"),
        pytest.warns(UserWarning, match="left out: 05.png: no caption"),
        pytest.warns(UserWarning, match="there are no held-out pictures"),
    ):
        run(changed, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == 4 and last["broken/picture undecodable"] == 2
    assert last["broken/no caption"] == 1 and "eval_loss_ema" not in last
    assert "broken=3" in capsys.readouterr().err


def test_a_run_stops_when_too_many_are_broken(config, tmp_path):
    stopped = tiny.replace(config, data={"max_broken_share": 0.0})
    with pytest.warns(UserWarning), pytest.raises(UsageError, match="max_broken_share is 0"):
        run(stopped, tmp_path / "run")
