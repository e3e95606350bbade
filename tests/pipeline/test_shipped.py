"""The cascade that ships with the package: its size, its pictures, and its headers."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from imagen_jax.config import MeshConfig
from imagen_jax.config.python_file import find_config, read_config_file
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline import painting
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.shipped import STAGES, STUDENT, shipped_config, shipped_stage
from imagen_jax.training.students import student_of
from imagen_jax.training.teachers import open_teacher

GOLDEN = Path(__file__).parents[1] / "golden" / "shipped"
PROMPT = "a red apple"


@pytest.fixture
def optimised():
    """Compiles for speed, which the tests' settings do not."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def golden(name):
    return np.asarray(Image.open(GOLDEN / f"{name}.png"))


def test_the_shipped_cascade_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in painting.shipped_stages()) <= 40e6
    assert shipped_stage(STUDENT).stat().st_size <= 24e6


FIELDS = ["unet", "conditions", "diffusion", "data", "sampling", "distillation"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("stage", [*STAGES, STUDENT])
def test_a_stage_is_that_of_its_committed_config(stage, field):
    shipped = shipped_config(stage)
    committed = read_config_file(find_config(shipped.name))
    assert getattr(shipped, field) == getattr(committed, field)


def test_the_student_is_that_of_the_shipped_base():
    shipped = shipped_config(STUDENT)
    committed = read_config_file(find_config(shipped.name))
    made = student_of(committed, str(shipped_stage("base")), shipped.distillation.steps)
    for field in FIELDS[:-1]:
        assert getattr(made, field) == getattr(shipped, field)
    open_teacher(made)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "shown", "side"),
    [("base", None, 64), ("sr256", 64, 256), ("sr1024", 256, 1024), (STUDENT, None, 64)],
)
def test_each_stage_paints_its_golden_picture(stage, shown, side, optimised):
    """Each begins with the golden picture of the stage before, of make_shipped_golden.py.

    Other processors and versions round sums differently, by far less than this allows.
    """
    is_student = stage == STUDENT
    place = {"base" if is_student else stage: shipped_stage(stage)}
    cascade = load_cascade(**place, mesh=one_device())
    image = {} if shown is None else {"image": golden(shown)}
    (painted,) = cascade(PROMPT, seed=0, **image).stages
    difference = np.abs(painted[0].astype(int) - golden(STUDENT if is_student else side))
    assert difference.mean() < 0.5 and (difference > 3).mean() < 0.001


@pytest.mark.slow
def test_the_shipped_cascade_paints_a_red_apple_and_the_same_bytes_twice(optimised):
    cascade = load_cascade(mesh=one_device())
    first, second = (cascade(PROMPT, num_steps=[8, 1, 1]).stages for _ in range(2))
    for side, pixels, again in zip((64, 256, 1024), first, second, strict=True):
        np.testing.assert_array_equal(pixels, again)
        painted = pixels[pixels.min(-1) < 230]
        assert len(painted) > 0.1 * side**2
        red, green, blue = painted.mean(0)
        assert red > green + 30 and red > blue + 30
