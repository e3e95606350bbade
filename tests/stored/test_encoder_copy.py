"""A training directory's own copy of a frozen encoder, and what makes it that of another source."""

import jax
import numpy as np
import pytest
import tiny

from imagen_jax.checkpoints.directory import claim_directory, read_config
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.stored.adapters import read_account
from imagen_jax.stored.encoders import ENCODER_COPY, drop_other_encoder, keep_frozen_encoder
from imagen_jax.stored.stages import load_frozen_encoder, load_weights
from imagen_jax.training.loop import run
from imagen_jax.weights.stage_file import save_stage_file

CHANGE = ("text_encoder.source",)
MESH = make_mesh(MeshConfig())


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Two stages with encoders of their own, and the encoders."""
    directory, found = tmp_path_factory.mktemp("stages"), {}
    for seed, name in enumerate(("first", "second")):
        params = tiny.random_params(tiny.stage(), seed)
        save_stage_file(directory / f"{name}.safetensors", tiny.stage(), params, "float32")
        found[directory / f"{name}.safetensors"] = params["text_encoder"]
    return found


def reading(source, **changes):
    """A stage that reads the encoder of `source`."""
    return tiny.stage(text_encoder={"train": False, "source": str(source)}, **changes)


@pytest.fixture
def workdir(stages, tmp_path):
    """A training directory with a copy of the first encoder."""
    source = next(iter(stages))
    claim_directory(tmp_path / "run", reading(source))
    keep_frozen_encoder(reading(source), stages[source], tmp_path / "run")
    return tmp_path / "run"


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_copy_stands_for_the_source_that_its_directory_names_and_for_no_other(stages, workdir):
    (first, of_first), (second, of_second) = stages.items()
    for source, encoder in ((first, of_first), (second, of_second)):
        assert_same(load_frozen_encoder(reading(source), workdir, MESH), encoder)
    assert_same(load_frozen_encoder(reading(first), workdir, MESH), of_first)
    with pytest.raises(UsageError, match=r"^text_encoder.source is 'elsewhere'; there is no such"):
        load_frozen_encoder(reading("elsewhere"), workdir, MESH)


def test_the_copy_goes_where_its_directory_is_to_name_another_source(stages, workdir):
    first, second = stages
    before = (workdir / ENCODER_COPY).read_bytes()
    drop_other_encoder(reading(first), workdir)
    assert (workdir / ENCODER_COPY).read_bytes() == before
    drop_other_encoder(reading(second), workdir)
    assert not (workdir / ENCODER_COPY).exists()
    drop_other_encoder(reading(second), workdir)  # As in a run that was killed here.


@pytest.mark.slow
def test_a_run_that_names_another_source_goes_on_with_it_and_keeps_it(stages, tmp_path):
    workdir, data = tmp_path / "run", tiny.folder(tmp_path / "data")
    for steps, (source, encoder) in enumerate(stages.items(), 1):
        config = reading(source, data=data, training={"num_steps": steps})
        run(config, workdir, allow_change=CHANGE)
        assert_same(load_weights(workdir).params["text_encoder"], encoder)
    moved = source.rename(tmp_path / "moved.safetensors")
    try:
        run(tiny.replace(config, training={"num_steps": 3}), workdir)
    finally:
        moved.rename(source)
    assert_same(load_weights(workdir).params["text_encoder"], encoder)


@pytest.mark.slow
def test_an_adapter_of_the_encoder_refuses_another_one_and_loses_nothing(stages, tmp_path):
    first, second = stages
    workdir = tmp_path / "run"
    config = reading(
        first,
        data=tiny.folder(tmp_path / "data"),
        training={"num_steps": 1},
        adapter={"rank": 2, "targets": ("text_encoder.*kernel",), "base": str(first)},
    )
    run(config, workdir)
    kept, fits = (workdir / ENCODER_COPY).read_bytes(), read_account(workdir)
    changed = tiny.replace(
        config, training={"num_steps": 2}, text_encoder={"source": str(second)}
    )  # fmt: skip
    with pytest.raises(UsageError, match="trained beside other weights than those"):
        run(changed, workdir, allow_change=CHANGE)
    assert read_config(workdir) == config and read_account(workdir) == fits
    assert (workdir / ENCODER_COPY).read_bytes() == kept
