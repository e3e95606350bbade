"""The loss on held-out pictures depends on the weights, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from imagen_jax.config import DataConfig, MeshConfig
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError
from imagen_jax.networks import build_networks
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.sampling import picture_keys
from imagen_jax.training.evaluation import HeldOutLoss, open_held_out
from imagen_jax.training.objective import diffusion_loss, mean_loss
from imagen_jax.training.text_inputs import load_caption_reader


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve pictures, which two batches go through more than once."""
    return open_source(tiny.folder(tmp_path_factory.mktemp("held_out") / "pictures"))


CONFIG = tiny.stage(
    training={"caption_dropout": 1.0, "eval_batches": 2},
    data={"crop": 8, "max_broken_share": 1.0},
)


def held_out_loss(source, devices=1, **training):
    config = tiny.replace(CONFIG, training=training)
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    networks, read = build_networks(config), load_caption_reader(config)
    return HeldOutLoss(config, networks, diffusion_loss, read, source, mesh)


@pytest.fixture(scope="module")
def evaluate(source):
    return held_out_loss(source)


@pytest.fixture(scope="module")
def state():
    """Raw weights, and an EMA that is another network."""
    return tiny.state(CONFIG).replace(ema=tiny.random_params(CONFIG, seed=1))


def test_the_same_weights_have_the_same_loss_at_every_step(evaluate, state):
    first = evaluate(state, {})
    assert evaluate(state.replace(step=np.int32(1000)), {}) == first
    assert first["eval_loss_ema"] != first["eval_loss_raw"]


def test_ema_and_raw_weights_are_not_confused(evaluate, state):
    first = evaluate(state, {})
    swapped = evaluate(state.replace(params=state.ema, ema=state.params), {})
    assert swapped["eval_loss_ema"] == first["eval_loss_raw"]
    assert swapped["eval_loss_raw"] == first["eval_loss_ema"]


def test_runs_of_another_seed_batch_and_number_of_devices_can_be_compared(source, evaluate, state):
    other = held_out_loss(
        source, 2, seed=7, batch_size=8, accumulation_steps=2, eval_batches=4
    )  # fmt: skip
    got, expected = other(state, {}), evaluate(state, {})
    for name, loss in expected.items():
        assert got[name] == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_it_is_the_mean_loss_and_no_caption_is_dropped(evaluate, state):
    """Training drops all of them here."""
    config = tiny.replace(CONFIG, training={"caption_dropout": 0.0})
    networks, losses = build_networks(config), []
    keys = picture_keys(0, config.resolution, 16)
    params = jax.tree.map(jnp.asarray, state.params)
    for number, batch in zip(range(2), evaluate._dataset, strict=False):
        batch = jax.tree.map(jnp.asarray, batch)
        part = keys[8 * number : 8 * number + 8]
        losses.append(mean_loss(diffusion_loss, config, networks, params, {}, batch, part))
    assert evaluate(state, {})["eval_loss_raw"] == pytest.approx(float(np.mean(losses)), rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out")
def test_broken_records_have_no_part_in_it(state, tmp_path):
    """However many of a batch they are, and also where all are."""
    data = tiny.folder(tmp_path / "pictures", 16)
    for number in range(11):
        (tmp_path / "pictures" / f"{number:02}.png").write_bytes(b"")
    evaluate = held_out_loss(open_source(data))
    config = tiny.replace(CONFIG, training={"caption_dropout": 0.0})
    params = jax.tree.map(jnp.asarray, state.params)
    keys, good, counts = picture_keys(0, config.resolution, 16).reshape(2, 8), [], []
    for part, batch in zip(keys, evaluate._dataset, strict=False):
        inputs = jax.tree.map(jnp.asarray, batch)
        losses, _ = diffusion_loss(config, build_networks(config), params, {}, inputs, part)
        good += list(np.asarray(losses)[batch["weight"] > 0])
        counts.append(sum(batch["weight"] > 0))
    assert sum(counts) == 5
    found = evaluate(state, {})["eval_loss_raw"]
    assert found == pytest.approx(float(np.mean(good)), rel=1e-5)
    evaluate._dataset = [batch | {"weight": np.zeros(8, np.float32)}] * 2
    assert np.isnan(evaluate(state, {})["eval_loss_raw"])


NAMED = "captioned_emoji/core_64"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"eval_split": "test"}, (NAMED, "test")),
        ({"eval_source": "folder:other"}, ("folder:other", "train")),
        ({"eval_source": "coco", "eval_split": "val"}, ("coco", "val")),
    ],
)
def test_held_out_is_another_split_or_another_source(data, expected):
    held_out = DataConfig(source=NAMED, **data).held_out()
    assert (held_out.source, held_out.split) == expected


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"eval_split": "train"},
        {"eval_source": NAMED},
        {"source": "folder:a", "eval_source": "folder:a", "eval_split": "test"},
        {"mixture": ("1*folder:a", "1*folder:b"), "eval_source": "folder:b"},
    ],
)
def test_the_training_data_is_not_held_out(data):
    with pytest.raises(UsageError, match="is what the run is trained on; name another split"):
        tiny.stage(data={"source": NAMED, **data}, training={"eval_every": 10})
    tiny.stage(data={"source": NAMED, **data})  # Without evaluation there is no such rule.


@pytest.mark.parametrize(
    "data",
    [
        {"source": "folder:a"},
        {"source": "webdataset:a", "eval_split": "test"},  # Files have no splits.
        {"mixture": ("1*folder:a", "1*folder:b"), "eval_split": "test"},
        {"mixture": ("1*folder:a", f"1*{NAMED}"), "source": "folder:a"},
    ],
)
def test_files_alone_are_trained_on_without_being_judged(data):
    config = tiny.stage(data=data, training={"eval_every": 10})
    with pytest.warns(UserWarning, match=r"no held-out pictures.*data\.eval_source"):
        assert open_held_out(config) is None


def test_a_held_out_set_that_is_not_there_is_named():
    config = tiny.stage(data={"eval_source": "folder:nowhere"}, training={"eval_every": 1})
    with pytest.raises(UsageError, match="^The held-out set cannot be opened: .*folder:nowhere"):
        open_held_out(config)
