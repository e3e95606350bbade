"""A stage beside a frozen encoder: where it is kept, and the sheets that the run paints."""

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from imagen_jax.checkpoints.directory import read_config
from imagen_jax.errors import UsageError
from imagen_jax.stored.encoders import ENCODER_COPY
from imagen_jax.stored.stages import load_weights
from imagen_jax.training.loop import run
from imagen_jax.weights.stage_file import save_stage_file
from imagen_jax.weights.tensors import write_tensors

SIDE, GAP = 16, 4


@pytest.fixture(scope="module")
def encoder():
    return tiny.random_params(tiny.stage(), seed=3)["text_encoder"]


@pytest.fixture(scope="module")
def workdir(encoder, tmp_path_factory):
    """A super-resolution run of a step, and of one more when its encoder's source is gone."""
    directory = tmp_path_factory.mktemp("frozen")
    source, workdir = directory / "base.safetensors", directory / "run"
    params = {**tiny.random_params(tiny.stage()), "text_encoder": encoder}
    save_stage_file(source, tiny.stage(), params, "float32")
    config = tiny.super_resolution(
        text_encoder={"train": False, "source": str(source)},
        data=tiny.folder(directory / "data"),
        training={"num_steps": 1, "sample_every": 1},
        sampling={"num_steps": 1},
    )
    run(config, workdir)
    source.unlink()
    run(tiny.replace(config, training={"num_steps": 2}), workdir)
    return workdir


@pytest.mark.slow
def test_the_run_keeps_the_encoder_that_it_was_started_with(workdir, encoder):
    stage = load_weights(workdir)
    jax.tree.map(np.testing.assert_array_equal, stage.params["text_encoder"], encoder)


@pytest.mark.slow
def test_another_encoder_in_its_place_is_refused(workdir):
    kept = (workdir / ENCODER_COPY).read_bytes()
    other = tiny.random_params(tiny.stage(), seed=4)["text_encoder"]
    write_tensors(workdir / ENCODER_COPY, other, "float32", {})
    config = tiny.replace(read_config(workdir), training={"num_steps": 3})
    with pytest.raises(UsageError, match=r"^The text encoder of .* up to step 2; put back what"):
        run(config, workdir)
    (workdir / ENCODER_COPY).write_bytes(kept)


@pytest.mark.slow
def test_every_sheet_has_a_row_of_inputs_of_samples_and_of_targets(workdir):
    """Inputs and targets stay; what is painted from the same noise changes with the EMA."""
    paths = sorted((workdir / "samples").iterdir())
    assert [path.name for path in paths] == ["00000001.png", "00000002.png"]
    first, second = (np.asarray(Image.open(path)).astype(int) for path in paths)
    assert first.shape == (3 * (SIDE + GAP) + GAP, 16 * (SIDE + GAP) + GAP, 3)
    inputs, samples, targets = (slice(y, y + SIDE) for y in range(GAP, 3 * SIDE, SIDE + GAP))
    for row in (inputs, targets):
        np.testing.assert_array_equal(first[row], second[row])
    assert np.any(first[samples] != second[samples])
    # The picture of 8 pixels, enlarged, is the one of 16 made small: their means are equal.
    means = [first[row, GAP : GAP + SIDE].mean((0, 1)) for row in (inputs, targets)]
    np.testing.assert_allclose(*means, atol=2)
