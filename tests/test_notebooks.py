"""The notebooks: the .ipynb is that of the plain text, and every cell runs on a CPU."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import pytest
from scripts import ROOT, tool

import imagen_jax

pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
GOLDEN = ROOT / "tests" / "golden" / "deepfloyd_if"
SMALL = {
    "sample": {
        "largest": 64, "prompts": "a red apple; a cat face", "steps": 2, "num_images": 2,
        "seeds": [0, 1], "guidance_scales": [1.0, 3.0], "size": "16x32", "run_deepfloyd_if": True,
        "stage_1": "stage_1", "stage_2": str(GOLDEN / "stage_2"), "dtype": "float32", "if_steps": 2,
    },
    "how_imagen_works": {
        "side": 16, "steps": 2, "large_steps": 1, "largest_steps": 1, "scales": [0.0, 4.0],
        "levels": [0.0, 0.3],
    },
    "fine_tune": {
        "paint_steps": 2, "num_others": 4, "train_steps": 2, "weights": [1.0],
        "num_drawings": 12, "maps_steps": 2, "maps_batch": 4, "picture_scales": [2.0],
    },
    "train": {"train_steps": 3, "batch_size": 4, "paint_steps": 2},
}  # fmt: skip
"""Name -> what the forms say in the tests: few steps, small pictures."""


@pytest.fixture
def make():
    return tool("make_notebooks").make


def fill(notebook, values: dict) -> None:
    """Writes values into the forms; each must be there once."""
    for name, value in values.items():
        form = re.compile(rf"^{name} = .*?(?=  # @param)", re.MULTILINE)
        found = [cell for cell in notebook.cells if form.search(cell.source)]
        assert len(found) == 1, name
        found[0].source = form.sub(lambda _, n=name, v=value: f"{n} = {v!r}", found[0].source)


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_made_of_its_plain_text(source, make):
    stored = json.loads(source.with_suffix(".ipynb").read_text())
    assert stored == json.loads(tool("make_notebooks").nbformat.writes(make(source)))


def test_no_notebook_is_without_plain_text():
    made = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert made == {path.stem for path in NOTEBOOKS} == set(SMALL)


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_badge_is_first_and_leads_to_the_notebook(source, make):
    place = f"{tool('make_notebooks').REPOSITORY}/blob/main/notebooks/{source.stem}.ipynb"
    notebook = make(source)
    assert f"(https://colab.research.google.com/github/{place})" in notebook.cells[0].source
    assert not [cell for cell in notebook.cells if "$" in cell.source]


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_downloads_or_needs_an_accelerator_is_off(source, make):
    code = "\n".join(cell.source for cell in make(source).cells)
    switches = re.findall(r"^run_\w+ = (\w+)  # @param", code, re.MULTILINE)
    assert set(switches) <= {"False"}
    assert "snapshot_download" not in code or switches


def test_the_page_shows_what_the_notebooks_cells_gave():
    """Every cell of code is as it was run, and every picture is there."""
    name = tool("make_notebook_page").NAME
    cells = tool("make_notebooks").cells(ROOT / "notebooks" / f"{name}.py")
    directory = ROOT / "docs" / name
    ran = json.loads((directory / "cells.json").read_text())
    assert [cell["source"] for cell in ran] == [x.source for x in cells if x.cell_type == "code"]
    pictures = {picture for cell in ran for picture in cell["pictures"]}
    assert pictures == {path.name for path in directory.glob("*.png")} and len(pictures) >= 8


def test_the_study_that_the_notebook_tells_of_is_the_kept_one():
    """Rows are U-Nets and columns encoders, each at its best guidance."""

    def best(study):
        points = json.loads((ROOT / "docs" / "studies" / study / "results.json").read_text())
        named = {}
        for point in points["points"]:
            name = Path(point["settings"]["base"]).name
            (share,) = (x for key, x in point.items() if "named first" in key)
            named[name] = max(named.get(name, 0), share)
        return named

    text = (ROOT / "notebooks" / "how_imagen_works.py").read_text()
    told = re.findall(r"^# \| U-Net .* million \| (\d+)% \| (\d+)% \| (\d+)% \|$", text, re.M)
    sizes = best("sizes")
    assert told == [
        tuple(f"{100 * sizes[f'u{unet}-t{encoder}']:.0f}" for encoder in (48, 96, 192))
        for unet in (8, 16, 32)
    ]
    encoders = best("encoders")
    assert f"a frozen T5 named {100 * encoders['t5-frozen']:.0f}%" in text
    assert f"a small CLIP {100 * encoders['clip-frozen']:.0f}%" in text


@pytest.mark.slow
@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_on_a_cpu(source, make, tmp_path, monkeypatch):
    prepare(tmp_path)
    places = [str(Path(imagen_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    # As tests/conftest.py has it, for the kernel.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir or "")
    notebook = make(source)
    fill(notebook, SMALL[source.stem])
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def prepare(directory: Path) -> None:
    """A stage I of DeepFloyd IF, random and small, whose side is what the stage II takes."""
    shutil.copytree(GOLDEN / "stage_1", directory / "stage_1")
    config = directory / "stage_1" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 8}))
