"""A stage is sampled with the tokenizer that it was trained with, wherever it is kept."""

import contextlib
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny
from scripts import call, verbs

from imagen_jax.checkpoints.about import Fingerprints
from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import claim_directory
from imagen_jax.checkpoints.state import abstract_first_state
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.prompts import PromptReader, TextEncoders, check_prompts
from imagen_jax.stored.encoders import load_stage_tokenizer
from imagen_jax.stored.stages import (
    load_weights,
    open_encoder,
    open_frozen_encoder,
    open_stage,
)
from imagen_jax.text import tokenizer
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.start import from_stage
from imagen_jax.weights.stage_file import save_stage_file
from imagen_jax.weights.stored import open_file

UNKNOWN_FIELD = b"\xc0\x3e\x00"
"""Protocol buffers skip it."""
MESH = make_mesh(MeshConfig())


@pytest.fixture
def config(tmp_path):
    """A stage whose tokenizer lies in a directory."""
    vocabulary = Path(tokenizer.__file__).with_name("captions.model").read_bytes()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(vocabulary)
    return tiny.stage(text_encoder={"tokenizer": str(tmp_path / "tokenizer")})


def replace_tokenizer(config):
    with (Path(config.text_encoder.tokenizer) / "spiece.model").open("ab") as file:
        file.write(UNKNOWN_FIELD)


def save(config, workdir, step, known=True):
    """A checkpoint of the run, with the fingerprint of the tokenizer that is there."""
    claim_directory(workdir, config)
    found = load_stage_tokenizer(config).fingerprint if known else ""
    state = jax.tree.map(jnp.asarray, tiny.state(config, step))
    with contextlib.closing(Checkpoints(workdir, keep=5)) as checkpoints:
        checkpoints.save(state, config, 8 * step, Fingerprints(tokenizer=found))
    return workdir


def export(config, workdir, tmp_path):
    assert call(verbs, "export", workdir, tmp_path / "x.safetensors").code == 0
    return tmp_path / "x.safetensors"


def refuses(path, config):
    """Every way to the tokenizer, in one sentence that names it and the stage."""
    stage = open_stage(path)
    said = rf"^The tokenizer '{config.text_encoder.tokenizer}' is not the one that {path} was tra"
    for read in (
        lambda: stage.load_tokenizer(),
        lambda: check_prompts([stage], ["a red apple"]),
        lambda: PromptReader(stage, MESH)(["a red apple"], 8),
        lambda: TextEncoders([stage], MESH)(["a red apple"], 8),
        lambda: TextEncoders([stage], MESH).without_prompt(8),
    ):
        with pytest.raises(UsageError, match=said):
            read()


def test_a_replaced_tokenizer_is_refused_and_the_same_one_anywhere_is_taken(config, tmp_path):
    workdir = save(config, tmp_path / "run", 1)
    file = export(config, workdir, tmp_path)
    ids = load_stage_tokenizer(config).ids("a red apple")
    Path(config.text_encoder.tokenizer).rename(tmp_path / "moved")
    Path(config.text_encoder.tokenizer).symlink_to(tmp_path / "moved")
    for path in (workdir, file):
        assert open_stage(path).load_tokenizer().ids("a red apple") == ids
    replace_tokenizer(config)
    for path in (workdir, file):
        refuses(path, config)


def test_what_a_run_was_allowed_to_read_anew_counts_from_its_next_checkpoint_on(config, tmp_path):
    workdir = save(config, tmp_path / "run", 1)
    replace_tokenizer(config)
    refuses(workdir, config)
    save(config, workdir, 2)
    assert open_stage(workdir).load_tokenizer().ids("a red apple")


def test_a_damaged_checkpoint_leaves_the_word_to_the_one_before(config, tmp_path):
    workdir = save(config, tmp_path / "run", 1)
    save(config, workdir, 2)
    about = workdir / "checkpoints" / "2" / "about" / "metadata"
    about.write_text(about.read_text()[:-9])
    replace_tokenizer(config)
    refuses(workdir, config)


def test_where_it_is_not_known_any_tokenizer_is_taken_and_files_do_not_name_one(config, tmp_path):
    workdir = save(config, tmp_path / "run", 1, known=False)
    file = export(config, workdir, tmp_path)
    assert "tokenizer" not in open_file(file)[0]
    replace_tokenizer(config)
    for path in (workdir, file):
        assert open_stage(path).tokenizer == load_weights(path).tokenizer == ""
        assert open_stage(path).load_tokenizer().ids("a red apple")


def test_a_file_names_it_however_often_the_stage_is_written_again(config, tmp_path):
    workdir, found = save(config, tmp_path / "run", 1), load_stage_tokenizer(config).fingerprint
    file = export(config, workdir, tmp_path)
    again = tmp_path / "again.safetensors"
    assert call(verbs, "export", file, again).code == 0
    for path in (file, again):
        assert open_file(path)[0]["tokenizer"] == found == load_weights(path).tokenizer


def begins_at(path, config, **changes):
    """The parameters of a new run that begins with a stage's."""
    ours = tiny.replace(config, **changes)
    params = abstract_first_state(ours, make_optimizer(ours.optimizer)).params
    abstract = meshes.with_shardings(params, meshes.parameter_shardings(params, MESH))
    return from_stage(ours, abstract, path, None)


def test_whoever_learns_from_a_stage_or_reads_with_its_encoder_needs_its_tokenizer(
    config, tmp_path
):
    file = export(config, save(config, tmp_path / "run", 1), tmp_path)
    source = dataclasses.replace(config.text_encoder, train=False, source=str(file))
    reader = tiny.replace(config, text_encoder=source)
    assert open_frozen_encoder(reader, None) and open_encoder(file) and begins_at(file, config)
    replace_tokenizer(config)
    said = rf"The tokenizer '{config.text_encoder.tokenizer}' is not the one that {file} was tra"
    for read in (
        lambda: open_frozen_encoder(reader, None),
        lambda: open_encoder(file),
        lambda: begins_at(file, config),
    ):
        with pytest.raises(UsageError, match=said):
            read()
    other = dataclasses.replace(config.text_encoder, tokenizer="captions")
    assert begins_at(file, config, text_encoder=other)


@pytest.mark.slow
def test_a_stage_file_is_opened_without_orbax(tmp_path):
    config, path = tiny.stage(), tmp_path / "x.safetensors"
    found = load_stage_tokenizer(config).fingerprint
    save_stage_file(path, config, tiny.random_params(config), "float32", tokenizer=found)
    code = (
        "import json, sys\n"
        "from imagen_jax.pipeline.prompts import check_prompts\n"
        "from imagen_jax.pipeline.load import load_stage\n"
        f"check_prompts([load_stage({str(path)!r})], ['a red apple'])\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('orbax')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
