"""Stages that are told classes, pictures and numbers, or nothing: how they train and begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny
from scripts import call, verbs

from imagen_jax.errors import UsageError
from imagen_jax.networks import build_networks, prepare
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.planning import calls
from imagen_jax.stored.stages import load_weights
from imagen_jax.training.loop import run
from imagen_jax.training.start import from_stage
from imagen_jax.training.step import abstract_batch
from imagen_jax.training.trainer import Trainer
from imagen_jax.weights.stage_file import save_stage_file

ALL = {"classes": 3, "pictures": ("sketch:1",), "numbers": ("age",)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.labelled_folder(tmp_path_factory.mktemp("told") / "pictures")


def test_classes_pictures_and_numbers_are_learned(source, tmp_path):
    """All that begins as zero has moved after a few steps; there is no encoder anywhere."""
    changes = {"num_steps": 3, "sample_every": 3}
    config = tiny.replace(tiny.told(**ALL), data=source, training=changes)
    run(config, tmp_path / "run")
    params = runs.saved(config, tmp_path / "run").params
    assert params.keys() == {"unet"}
    added = params["unet"]["added"]
    moved = (added["pictures"]["sketch"]["kernel"], added["numbers"]["age"]["dense_2"]["kernel"])
    assert all(np.abs(x).max() > 1e-4 for x in moved)
    assert (np.abs(added["classes"]).max(1) > 1e-4).sum() >= 3
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 1
    out = tmp_path / "stage.safetensors"
    assert call(verbs, "export", tmp_path / "run", out).code == 0
    assert load_weights(out).params.keys() == {"unet"}


def test_an_unconditional_stage_trains(source, tmp_path):
    config = tiny.replace(tiny.told(), data=source, training={"num_steps": 1, "sample_every": 1})
    run(config, tmp_path / "run")
    assert runs.steps(tmp_path / "run") == [1]


def test_a_batch_has_what_the_step_is_compiled_for():
    for config in (tiny.told(**ALL), tiny.told(), tiny.super_resolution(conditions=ALL)):
        batch = abstract_batch(config, 4)
        told = {"label", "sketch", "age"} if config.conditions.classes else set()
        text = {"token_ids", "mask"} if config.conditions.text else set()
        low_res = {"low_res"} if config.low_resolution else set()
        assert batch.keys() == {"image", "weight"} | told | text | low_res
        mesh = make_mesh(config.mesh, jax.devices()[:1])
        (step,) = calls.training_steps(config, mesh)
        step.function.trace(*step.arguments)
        assert calls.sampler(config, config.sampling, 2, mesh).arguments


@pytest.mark.parametrize("make", [tiny.stage, tiny.super_resolution])
def test_a_stage_that_is_taught_more_begins_as_what_it_came_from(make, tmp_path):
    """To the bit, whatever it is told."""
    before, after = make(), make(conditions=ALL)
    save_stage_file(tmp_path / "x.safetensors", before, tiny.random_params(before), "float32")
    trainer = Trainer(after, make_mesh(after.mesh, jax.devices()[:1]))
    taught = from_stage(after, trainer.abstract_state.params, tmp_path / "x.safetensors", None)
    trained, batch = load_weights(tmp_path / "x.safetensors").params, tiny.batch(after, 2)
    batch |= {
        "sketch": batch["image"][..., :1], "age": np.float32([0.1, 0.9]), "label": np.int32([1, -1])
    }  # fmt: skip

    def predict(config, params):
        networks, x = build_networks(config), jnp.asarray(batch["image"], jnp.float32) / 255

        def run(params, batch):
            told = networks.conditions_of(params, batch)
            keys = jax.random.split(jax.random.key(0), 2)
            told = prepare(config, told, jnp.full(2, 0.3), keys, x.shape[1:3])
            told = networks.encode(params, told)
            return networks.predict(params, x, jnp.zeros(2), told).value

        return np.asarray(jax.jit(run)(params, batch))

    np.testing.assert_array_equal(predict(after, taught), predict(before, trained))
    assert np.any(jax.device_get(taught["unet"]["added"]["numbers"]["age"]["dense_1"]["kernel"]))


def test_a_stage_of_other_conditions_is_no_start(tmp_path):
    more = tiny.told(**ALL)
    save_stage_file(tmp_path / "x.safetensors", more, tiny.random_params(more), "float32")
    for config, says in ((tiny.told(), "another structure"), (tiny.stage(), "reads no text, un")):
        trainer = Trainer(config, make_mesh(config.mesh, jax.devices()[:1]))
        with pytest.raises(UsageError, match=says):
            from_stage(config, trainer.abstract_state.params, tmp_path / "x.safetensors", None)


def test_a_stage_without_text_names_no_encoder():
    with pytest.raises(UsageError, match=r"text_encoder\.train is True and conditions\.text is"):
        tiny.stage(conditions={"text": False})
    with pytest.raises(UsageError, match=r"data\.embeddings is 'e' and conditions\.text is off"):
        tiny.replace(tiny.told(), data={"embeddings": "e"})
    with pytest.raises(UsageError, match="reads no text; it has no text encoder to compile"):
        calls.embedding(tiny.told(), 2, make_mesh(tiny.told().mesh, jax.devices()[:1]))
