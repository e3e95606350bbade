"""A new run that starts from the weights of a trained stage."""

import contextlib
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny
from scripts import ROOT, call, sample, verbs

from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import claim_directory
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.prompts import TextEncoders
from imagen_jax.stored.stages import load_weights, open_stage
from imagen_jax.training.loop import run
from imagen_jax.training.objective import diffusion_loss
from imagen_jax.training.start import from_stage
from imagen_jax.training.text_inputs import load_caption_reader
from imagen_jax.training.trainer import Trainer
from imagen_jax.weights.deepfloyd_stage import convert_deepfloyd_if
from imagen_jax.weights.stage_file import save_stage_file


@pytest.fixture
def stage(tmp_path):
    """An exported stage and what it holds."""
    config, path = tiny.stage(), tmp_path / "stage.safetensors"
    params = tiny.random_params(config)
    save_stage_file(path, config, params, "float32")
    return path, params


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training directory whose EMA is apart from its parameters, and its state."""
    config, workdir = tiny.stage(), tmp_path_factory.mktemp("trained") / "run"
    state = jax.tree.map(jnp.asarray, tiny.state(config, 3))
    claim_directory(workdir, config)
    with contextlib.closing(Checkpoints(workdir, keep=1)) as checkpoints:
        checkpoints.save(state, config, 24)
    return workdir, state


def start(config, path, weights=None):
    """The first state of a run from the stage at `path`."""
    trainer = Trainer(config, make_mesh(config.mesh))
    params = from_stage(config, trainer.abstract_state.params, path, weights)
    return jax.device_get(trainer.start_from(params))


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_parameters_and_ema_are_the_stages_and_the_optimizer_is_new(stage):
    path, params = stage
    state = start(tiny.stage(), path)
    for mine in (state.params, state.ema):
        assert_same(mine, params)
    assert state.step == 0
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim > 0]
    assert moments
    assert not any(np.any(x) for x in moments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "which"), [(None, "ema"), ("ema", "ema"), ("raw", "params")]
)  # fmt: skip
def test_a_run_starts_from_the_weights_that_it_asks_for(trained, weights, which, tmp_path):
    """From a training directory, from an export of it, and from an export's own training."""
    workdir, saved = trained
    wanted = getattr(saved, which)
    file = tmp_path / "stage.safetensors"
    flags = ["--weights", weights] if weights else []
    assert call(verbs, "export", workdir, file, "--dtype", "float32", *flags).code == 0
    assert load_weights(file).weights == (weights or "ema")
    assert_same(load_weights(workdir, weights).params, wanted)
    for origin in (workdir, file):
        state = start(tiny.stage(), origin, weights)
        assert_same(state.params, wanted)
        assert_same(state.ema, wanted)


def test_a_file_does_not_pass_for_what_it_does_not_hold(trained, tmp_path):
    workdir, _ = trained
    for held, other in (("ema", "raw"), ("raw", "ema")):
        file = tmp_path / f"{held}.safetensors"
        result = call(verbs, "export", workdir, file, "--weights", held)
        assert f"{held} weights" in result.out
        with pytest.raises(UsageError, match=f"holds {held} weights only; {other} were"):
            load_weights(file, other)


@pytest.mark.slow
def test_a_run_starts_from_the_stage_and_goes_on_from_its_own_checkpoint(stage, tmp_path):
    """Which is then all that it needs. A step of Adam moves a parameter by its rate at most."""
    path, params = stage
    config = tiny.stage(data=tiny.folder(tmp_path / "data"))
    for steps in (1, 2):
        run(tiny.replace(config, training={"num_steps": steps}), tmp_path / "run", path)
        path.unlink(missing_ok=True)
        state = runs.saved(config, tmp_path / "run")
        assert state.step == steps
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1.01e-3 * steps)
        jax.tree.map(close, state.params, params)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unet": {"embed_dim": 16}}, "has shape .* this config has"),
        ({"unet": {"num_res_blocks": (2,)}}, "structure"),
        (
            {"text_encoder": {"t5": {"d_model": 32}}},
            r"with a text encoder of width 16 \(text_encoder\.t5\.d_model or .*\); .* has width 32",
        ),
        ({"text_encoder": {"t5": {"vocab_size": 4096}}}, "token_embedding.* has shape"),
    ],
)
def test_another_network_is_an_error(stage, changes, says):
    with pytest.raises(UsageError, match=says):
        start(tiny.stage(**changes), stage[0])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_frozen_encoder_is_not_loaded_and_a_trained_one_starts_from_it(stage, dtype, tmp_path):
    """The source of a stage's encoder need not be there to train its U-Net; whatever a frozen one
    computes in, what is trained is float32."""
    encoder = {"train": False, "source": str(tmp_path / "gone"), "t5": {"dtype": dtype}}
    config = tiny.stage(text_encoder=encoder)
    unet, file = tiny.random_params(config, 5), tmp_path / "unet.safetensors"
    save_stage_file(file, config, unet, "float32")
    assert_same(start(config, file).params, unet)
    config = tiny.replace(config, text_encoder={"source": str(stage[0])})
    save_stage_file(file, config, unet, "float32")
    rounded = lambda x: x.astype(dtype).astype(np.float32)  # noqa: E731
    both = {**unet, "text_encoder": jax.tree.map(rounded, stage[1]["text_encoder"])}
    begun = start(tiny.stage(text_encoder={"t5": {"dtype": dtype}}), file).params
    assert {x.dtype.name for x in jax.tree.leaves(begun)} == {"float32"}
    assert_same(begun, both)


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory):
    """A file of a tiny stage that reads, predicts and drops what those of DeepFloyd IF do."""
    directory = tmp_path_factory.mktemp("deepfloyd")
    file, encoder = directory / "if.safetensors", directory / "encoder.safetensors"
    config = tiny.stage()
    save_stage_file(encoder, config, tiny.random_params(config), "float32")
    config = tiny.stage(
        unet={"variant": {"predicts_variance": True, "time_input": "step", "mask_padding": False}},
        text_encoder={"null": "empty", "train": False, "source": str(encoder)},
        diffusion={"schedule": "cosine_chain"},
    )
    save_stage_file(file, config, tiny.random_params(config, 5), "float32")
    return file, config


def fine_tuned(file, config, directory):
    """Two steps and a sheet of samples: rows of metrics, and how far each output moved."""
    config = tiny.replace(
        config,
        data=tiny.folder(directory / "data"),
        optimizer={"name": "adam", "learning_rate": 1e-3, "warmup_steps": 0},
        training={"batch_size": 8, "num_steps": 2, "checkpoint_every": 2, "log_every": 1,
                  "sample_every": 2, "sample_prompts": ("a", "b")},
        sampling={"num_steps": 2},
    )  # fmt: skip
    run(config, directory / "run", file)
    stages = load_weights(file), load_weights(directory / "run", "raw")
    assert stages[1].config == config
    before, after = (stage.params["unet"]["conv_out"]["kernel"] for stage in stages)
    lines = (directory / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert (directory / "run" / "samples").is_dir()
    return losses, np.abs(after - before).max((0, 1, 2))


@pytest.mark.slow
def test_mean_and_variance_of_deepfloyd_if_are_fine_tuned(deepfloyd, tmp_path):
    losses, moved = fine_tuned(*deepfloyd, tmp_path)
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert moved.shape == (2 * 3 * 2**2,)
    assert (moved > 1e-4).all()


@pytest.mark.slow
def test_a_stage_of_deepfloyd_if_is_imported_fine_tuned_and_sampled(tmp_path):
    """From the directory of its pipeline on."""
    golden, file = ROOT / "tests" / "golden" / "deepfloyd_if", tmp_path / "if.safetensors"
    config = convert_deepfloyd_if(golden / "stage_1", file, "float32", golden / "stage_1")
    losses, moved = fine_tuned(file, config, tmp_path)
    assert np.isfinite(losses).all()
    assert moved.shape == (6,)
    assert (moved > 1e-4).all()
    flags = ("--steps", 2, "--sr256", "none", "--out", tmp_path / "pictures")
    result = call(sample, "a", "--base", tmp_path / "run", *flags)
    assert result.code == 0, result.err


@pytest.mark.slow
def test_dropped_captions_are_the_empty_one(deepfloyd, tmp_path):
    """As sampling has it; by the encoder, or from embeddings made before."""
    file, config = deepfloyd
    mesh, cache = make_mesh(MeshConfig()), tmp_path / "embedded"
    (prompts := tmp_path / "prompts.txt").write_text("a red apple")
    assert call(verbs, "embed", f"prompts:{prompts}", cache, "--stage", file).code == 0
    (expected,) = TextEncoders([open_stage(file)], mesh)(["a red apple"], 8)
    for changed in (config, tiny.replace(config, data={"embeddings": str(cache)})):
        trainer, read = Trainer(changed, mesh), load_caption_reader(changed)
        text, mask = trainer.load_frozen(tmp_path, read)["null_text"]
        np.testing.assert_array_equal(mask, expected.null[1])
        np.testing.assert_allclose(text, expected.null[0], rtol=2**-8, atol=2**-9)

    batch = tiny.batch(config)
    image = jnp.asarray(batch["image"])
    params = jax.tree.map(jnp.asarray, tiny.random_params(config))
    null = {"null_text": tuple(map(jnp.asarray, expected.null))}
    keys = jax.random.split(jax.random.key(0), len(image))

    def losses(dropout, text, mask):
        rows = (jnp.asarray(np.repeat(x, len(image), axis=0)) for x in (text, mask))
        weight = jnp.ones(len(image))
        batch = {"image": image, "weight": weight, **dict(zip(("text", "mask"), rows, strict=True))}
        changed = tiny.replace(config, training={"caption_dropout": dropout})
        loss = jax.jit(functools.partial(diffusion_loss, changed, trainer.networks))
        return loss(params, null, batch, keys)[0]

    dropped = losses(1.0, expected.text, expected.mask)
    np.testing.assert_allclose(dropped, losses(0.0, *expected.null), rtol=1e-6)
    assert np.all(np.abs(dropped - losses(0.0, expected.text, expected.mask)) > 1e-6)


def test_another_chain_or_another_function_is_refused(deepfloyd):
    """Also where the parameters have the same shapes."""
    file, config = deepfloyd
    varied = lambda **changes: tiny.replace(config, unet={"variant": changes})  # noqa: E731
    said = r"schedule is 'cosine' and unet\.variant\.predicts_variance is on"
    with pytest.raises(UsageError, match=said):
        start(tiny.replace(config, diffusion={"schedule": "cosine"}), file)
    with pytest.raises(UsageError, match="with unet.variant.activation 'swish'; .* has 'gelu'"):
        start(varied(activation="gelu"), file)
    with pytest.raises(UsageError, match="null is 'empty' and text_encoder.train is on"):
        start(tiny.replace(config, text_encoder={"train": True, "source": ""}), file)
    start(tiny.replace(varied(residual_scale=1 + 1e-5), unet={"dtype": "bfloat16"}), file)
    with pytest.raises(UsageError, match="with unet.variant.residual_scale 1.0; .* has 0.7"):
        start(varied(residual_scale=0.7), file)
    with pytest.raises(UsageError, match="conv_out.*has shape"):
        start(varied(predicts_variance=False), file)
