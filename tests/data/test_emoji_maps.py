"""The script that draws maps and outlines of emoji, and finds them again in pictures."""

import json

import numpy as np
import pytest
from PIL import Image
from scripts import tool

from imagen_jax.config import ConditionsConfig, DataConfig
from imagen_jax.data import emoji_colours, emoji_concepts, shown
from imagen_jax.data.sources import open_source


@pytest.fixture(scope="module")
def maps():
    return tool("emoji_maps")


def flag(colours, side=32):
    """Vertical stripes of named colours."""
    stripes = [emoji_colours.from_hex(emoji_colours.BACKGROUNDS[name]) for name in colours]
    return np.repeat(np.repeat(np.stack(stripes)[None], side, 0), side // len(colours), 1)


def test_a_map_is_of_the_colours_that_dominate_and_outlines_lie_between_them(maps):
    pixels = flag(["red", "white", "blue", "green"])
    pixels[4, 4] = emoji_colours.from_hex("#fdd835")  # A pixel of yellow is noise.
    found = maps.label_map(pixels)
    names = [maps.COLOURS[number] for number in found[0, ::8]]
    assert names == ["red", "white", "blue", "green"] and len(np.unique(found)) == 4
    lines = maps.outlines(flag(["red", "white", "blue", "green"]))
    assert np.flatnonzero(lines.all(0)).tolist() == [7, 15, 23] and lines.sum() == 3 * 32


def test_agreement_is_one_with_itself_and_small_with_another(maps):
    pixels = flag(["red", "white", "blue", "green"])
    labels, lines = maps.label_map(pixels), maps.outlines(pixels)
    assert maps.mean_iou(labels, labels) == maps.met(lines, lines) == 1
    assert maps.mean_iou(labels, np.zeros_like(labels)) == pytest.approx(1 / 16)
    half = labels.copy()
    half[16:] = labels[0, 0]  # Of the first class 1/4 meets 5/8, of others a half what they are.
    assert maps.mean_iou(labels, half) == pytest.approx((0.4 + 3 * 0.5) / 4)
    assert maps.met(lines, np.roll(lines, 1, 1)) == 1 and maps.met(lines, np.roll(lines, 3, 1)) == 0
    assert np.isnan(maps.met(np.zeros_like(lines), lines))


def test_the_folders_are_read_as_the_config_says(maps, tmp_path, monkeypatch):
    some = [x for x in emoji_concepts.core_concepts() if x.label in ("red apple", "rocket")]
    monkeypatch.setattr(emoji_concepts, "core_concepts", lambda: some)
    monkeypatch.setattr(maps, "VARIANTS", 2)
    maps.make(tmp_path / "drawings")
    told = ConditionsConfig(pictures=("labels:classes=11", "sketch:1"))
    data = DataConfig(source=f"folder:{tmp_path / 'drawings' / 'train'}")
    source = open_source(data, None, told)
    assert source.left_out.total() == 0 and len(source) > 6
    for index in range(len(source)):
        record = source[index]
        assert any(x in str(record.captions.all()) for x in ("apple", "rocket"))
        for condition in told.shown:
            found = shown.read(condition, record.pictures[condition.name], record.name, 64)
            assert found.size == (64, 64) and len(np.unique(np.asarray(found))) > 1
    palette = json.loads((tmp_path / "drawings" / "palette.json").read_text())
    assert list(palette.values()) == list(range(11))
    assert Image.open(next((tmp_path / "drawings" / "train").glob("*.labels.png"))).mode == "L"
