"""The script that paints the same prompts by several stages."""

import sys

import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import tool

from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import grid
from imagen_jax.weights.stage_file import save_stage_file


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    path = tmp_path_factory.mktemp("stages") / "stage.safetensors"
    config = tiny.stage()
    save_stage_file(path, config, tiny.random_params(config), "float32")
    return path


def draw(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sheet_of_stages.py", *map(str, arguments)])
    tool("sheet_of_stages").main()


def test_a_stage_has_a_row_in_its_own_steps_or_in_those_asked_for(monkeypatch, stage, tmp_path):
    prompts = ["a cat", "a red apple"]
    draw(monkeypatch, tmp_path / "sheet.png", stage, f"{stage}@2", "--prompts", *prompts)
    paint = load_cascade(stage)
    rows = [list(paint(prompts, seed=0, **own).stages[0]) for own in ({}, {"num_steps": 2})]
    assert np.any(np.stack(rows[0]) != np.stack(rows[1]))
    wanted = grid(rows, [prompts] * 2, 128)
    np.testing.assert_array_equal(Image.open(tmp_path / "sheet.png"), wanted)


def test_a_stage_that_is_missing_leaves_no_sheet(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        draw(monkeypatch, tmp_path / "sheet.png", tmp_path / "nothing")
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
