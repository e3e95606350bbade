"""Training on several sizes: resume, evaluation, samples and figures, on the true sizes."""

import shutil

import jax
import numpy as np
import pytest
import runs
import tiny
from PIL import Image

from imagen_jax.checkpoints.directory import check_directory
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError
from imagen_jax.parallel.host_memory import in_blocks
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training import loop
from imagen_jax.training.loop import run
from imagen_jax.training.metrics_file import read_metrics
from imagen_jax.training.text_inputs import load_caption_reader
from imagen_jax.training.trainer import Trainer

SIZES = ((16, 16), (8, 24))


def folder(directory, shapes=((16, 16), (10, 30), (12, 12), (8, 24))):
    """Three pictures of each shape, with captions."""
    data = tiny.folder(directory, count=3 * len(shapes))
    rng = np.random.default_rng(1)
    for number in range(3 * len(shapes)):
        pixels = rng.integers(0, 256, (*shapes[number % len(shapes)], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"{number:02}.png")
    return tiny.replace(data, sizes=SIZES)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("sizes")


@pytest.fixture(scope="module")
def config(directory):
    """Evaluated on wide pictures alone, after the last step."""
    held_out = folder(directory / "held_out", ((8, 24),))
    data = tiny.replace(folder(directory / "data"), eval_source=held_out.source)
    return tiny.stage(data=data, training={"eval_every": 100, "eval_batches": 1})


def steps(config, count):
    return tiny.replace(config, training={"num_steps": count})


@pytest.fixture(scope="module")
def sizes_of_steps():
    return []


@pytest.fixture(scope="module")
def straight(config, directory, sizes_of_steps):
    """A run of five steps without a break."""

    def watched(function, platform, options):
        take = in_blocks(function, platform, options)

        def step(state, frozen, batch, key):
            sizes_of_steps.append(batch["image"].shape[1:3])
            return take(state, frozen, batch, key)

        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "in_blocks", watched)
        run(steps(config, 5), directory / "straight")
    return runs.saved(config, directory / "straight")


@pytest.mark.slow
def test_every_step_has_one_size_and_all_come(straight, sizes_of_steps):
    assert len(sizes_of_steps) == 5 and set(sizes_of_steps) == set(SIZES)


@pytest.mark.slow
def test_a_run_that_goes_on_sees_the_same_batches_to_the_bit(config, directory, straight):
    """From its second step, as if it had been killed before it saved again."""
    workdir = directory / "broken"
    shutil.copytree(directory / "straight", workdir)
    for step in ("4", "5"):
        shutil.rmtree(workdir / "checkpoints" / step)
    run(tiny.replace(steps(config, 5), training={"eval_every": 0}), workdir)
    resumed = runs.saved(config, workdir)
    assert resumed.step == straight.step == 5
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)


@pytest.mark.slow
def test_held_out_pictures_have_their_sizes(directory, straight):
    lines = read_metrics(directory / "straight")
    (losses,) = [line for line in lines if "eval_loss_raw" in line]
    assert np.isfinite([losses["eval_loss_raw"], losses["eval_loss_ema"]]).all()


@pytest.mark.slow
def test_figures_are_of_the_true_sizes(directory, straight, sizes_of_steps):
    """Where the step before the logged one had its size too, the rates are that size's."""
    lines = {line["step"]: line for line in read_metrics(directory / "straight") if "loss" in line}
    seen, told = set(), {}
    for step, size in enumerate(sizes_of_steps, 1):
        if size in seen:
            line = lines[step]
            told[size] = line["model_flops_per_second_per_chip"] / line["pictures_per_second"]
        else:
            assert "pictures_per_second" not in lines[step], "It compiles."
        seen.add(size)
    assert told[16, 16] > 1.2 * told[8, 24] > 0


def test_samples_of_super_resolution_have_the_size_of_their_targets(tmp_path):
    data = folder(tmp_path / "data", ((8, 24), (8, 24)))
    config = tiny.super_resolution(data=data, sampling={"num_steps": 1})
    trainer = Trainer(config, make_mesh(config.mesh))
    grid = trainer.sample_grid(load_caption_reader(config), open_source(data))
    sheet, measured = grid(tiny.random_params(config))
    assert sheet.width > 2 * sheet.height and measured["colour_drift"] > 0


def test_the_height_of_every_size_must_divide_over_the_devices(config):
    with pytest.raises(UsageError, match="A picture 10 pixels high does not divide over 4"):
        sizes = tiny.replace(config, data={"sizes": ((16, 16), (10, 24))}, mesh={"spatial": 4})
        Trainer(sizes, make_mesh(sizes.mesh))


@pytest.mark.slow
def test_other_sizes_are_a_change_of_the_data(config, directory, straight):
    other = tiny.replace(steps(config, 5), data={"sizes": ((16, 16), (24, 8))})
    with pytest.raises(UsageError, match=r"data\.sizes"):
        run(other, directory / "straight")
    check_directory(directory / "straight", other, allow_change=["data.sizes"])
