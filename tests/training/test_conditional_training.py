"""Stages that are told classes, pictures and numbers, or nothing: how they train and begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny
from scripts import call, verbs

from imagen_jax.conditions import Conditions, hide
from imagen_jax.diffusion.process import Predicted
from imagen_jax.errors import UsageError
from imagen_jax.networks import Networks, build_networks, prepare
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.planning import calls
from imagen_jax.stored.stages import load_weights
from imagen_jax.training import objective
from imagen_jax.training.loop import run
from imagen_jax.training.start import from_stage
from imagen_jax.training.step import abstract_batch
from imagen_jax.training.trainer import Trainer
from imagen_jax.weights.stage_file import save_stage_file

ALL = {"classes": 3, "pictures": ("sketch:1",), "numbers": ("age",)}
EVERY_KIND = ALL | {
    "pictures": ("sketch:1", "labels:classes=4", "hole:mask", "view"), "picture_dropout": 0.5
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.labelled_folder(tmp_path_factory.mktemp("told") / "pictures")


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_unconditional_stage_trains(source, tmp_path):
    config = tiny.replace(tiny.told(), data=source, training={"num_steps": 1, "sample_every": 1})
    run(config, tmp_path / "run")
    assert runs.steps(tmp_path / "run") == [1]


@pytest.mark.slow
def test_a_batch_has_what_the_step_is_compiled_for():
    shown = {"sketch", "labels", "hole", "view"}
    for config in (
        tiny.told(**EVERY_KIND),
        tiny.told(),
        tiny.super_resolution(conditions=EVERY_KIND),
    ):
        batch = abstract_batch(config, 4)
        told = {"label", "age"} | shown if config.conditions.classes else set()
        text = {"token_ids", "mask"} if config.conditions.text else set()
        low_res = {"low_res"} if config.low_resolution else set()
        assert batch.keys() == {"image", "weight"} | told | text | low_res
        mesh = make_mesh(config.mesh, jax.devices()[:1])
        (step,) = calls.training_steps(config, mesh)
        step.function.trace(*step.arguments)
        assert calls.sampler(config, config.sampling, 2, mesh).arguments


def predict(config, params, batch, hidden=None):
    """What the network says of the batch's pictures, without some of those that it is shown."""
    networks, x = build_networks(config), jnp.asarray(batch["image"], jnp.float32) / 255

    def run(params, batch):
        told = hide(networks.conditions_of(params, batch), hidden or {})
        keys = jax.random.split(jax.random.key(0), 2)
        told = prepare(config, told, jnp.full(2, 0.3), keys, x.shape[1:3])
        told = networks.encode(params, told)
        return networks.predict(params, x, jnp.zeros(2), told).value

    return np.asarray(jax.jit(run)(params, batch))


@pytest.mark.slow
def test_without_its_pictures_a_stage_is_one_that_knows_of_none():
    """To the bit, and for each row by itself."""
    plain, told = (
        tiny.stage(),
        tiny.stage(conditions={"pictures": ("labels:classes=4", "hole:mask")}),
    )
    params, batch = tiny.random_params(told), tiny.batch(told, 2)
    batch |= {"labels": batch["image"][..., :1] % 4, "hole": batch["image"][..., [0, 1, 2, 0]]}
    hidden = dict.fromkeys(("labels", "hole"), jnp.array([True, False]))
    found, shown = predict(told, params, batch, hidden), predict(told, params, batch)
    unet = {name: x for name, x in params["unet"].items() if name != "added"}
    bare = predict(plain, params | {"unet": unet}, batch)
    np.testing.assert_array_equal(found[0], bare[0])
    np.testing.assert_array_equal(found[1], shown[1])
    assert np.abs(shown - bare).max((1, 2, 3)).min() > 1e-3


def test_maps_and_masks_are_read_as_classes_and_known_pixels():
    config = tiny.told(pictures=("labels:classes=3", "hole:mask"))
    labels = np.array([[[0], [2]], [[255], [1]]], np.uint8)[None]
    hole = np.array([[[255, 0, 0, 0], [9, 9, 9, 255]]], np.uint8)[None]
    told = Conditions(pictures={"labels": jnp.asarray(labels), "hole": jnp.asarray(hole)})
    read = prepare(config, told, jnp.zeros(1), jax.random.split(jax.random.key(0), 1), (2, 2))
    assert read.pictures["labels"][0].tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 1, 0]]]
    assert read.pictures["hole"][0].tolist() == [[[1, -1, -1, 0], [0, 0, 0, 1]]]


@pytest.mark.slow
def test_pictures_are_dropped_by_their_share_and_apart_from_each_other_and_the_text(monkeypatch):
    config = tiny.stage(
        conditions={"pictures": ("sketch:1", "view"), "picture_dropout": 0.5},
        training={"caption_dropout": 0.5},
    )
    batch = tiny.batch(config, 256)
    batch |= {"sketch": batch["image"][..., :1], "view": batch["image"]}
    seen = []
    monkeypatch.setattr(objective, "prepare", lambda _, told, *rest: seen.append(told) or told)
    monkeypatch.setattr(Networks, "encode", lambda *_: None)
    monkeypatch.setattr(Networks, "predict", lambda _, params, z, *rest: Predicted(z))
    keys = jax.random.split(jax.random.key(0), 256)
    params, batch = jax.tree.map(jnp.asarray, (tiny.random_params(config), batch))
    objective.diffusion_loss(config, build_networks(config), params, {}, batch, keys)
    drawn = np.stack([~seen[0].text.any((1, 2)), *(~x for x in seen[0].shown.values())])
    assert list(seen[0].shown) == ["sketch", "view"]
    assert np.all(np.abs(drawn.mean(1) - 0.5) < 0.1)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.mean(drawn[one] == drawn[other]) - 0.5) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny.stage, tiny.super_resolution])
def test_a_stage_that_is_taught_more_begins_as_what_it_came_from(make, tmp_path):
    """To the bit, whatever it is told."""
    before, after = make(), make(conditions=EVERY_KIND)
    save_stage_file(tmp_path / "x.safetensors", before, tiny.random_params(before), "float32")
    trainer = Trainer(after, make_mesh(after.mesh, jax.devices()[:1]))
    taught = from_stage(after, trainer.abstract_state.params, tmp_path / "x.safetensors", None)
    trained, batch = load_weights(tmp_path / "x.safetensors").params, tiny.batch(after, 2)
    batch |= {
        "sketch": batch["image"][..., :1], "age": np.float32([0.1, 0.9]), "view": batch["image"],
        "label": np.int32([1, -1]), "labels": batch["image"][..., :1] % 4,
        "hole": batch["image"][..., [0, 1, 2, 0]],
    }  # fmt: skip

    np.testing.assert_array_equal(predict(after, taught, batch), predict(before, trained, batch))
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
