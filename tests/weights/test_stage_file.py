"""Exported stages: what was written comes back, and what is broken is refused by name."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from scripts import call, refused, verbs

from imagen_jax.errors import UsageError
from imagen_jax.stored.stages import load_config, load_weights
from imagen_jax.weights.stage_file import load_stage_file, save_stage_file
from imagen_jax.weights.stored import open_file

CONFIG = tiny.stage()


@pytest.fixture
def params():
    return jax.tree.map(jnp.asarray, tiny.random_params(CONFIG))


@pytest.fixture
def exported(tmp_path, params):
    path = tmp_path / "stage.safetensors"
    save_stage_file(path, CONFIG, params, "float32")
    return path


def test_float32_comes_back_bit_for_bit_with_its_config(exported, params):
    config, loaded = load_stage_file(exported)
    assert config == CONFIG
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_the_config_needs_no_tensor(exported):
    rewrite(exported, drop="unet.conv_in.kernel")
    assert load_config(exported) == CONFIG
    with pytest.raises(UsageError, match=r"1 tensors are missing \(unet\.conv_in\.kernel\)"):
        load_stage_file(exported)


def test_the_file_may_be_read_as_any_new_file_and_names_no_directory(tmp_path, params):
    places = {"data": {"data_dir": "/home/me/data"}, "text_encoder": {"train": False}}
    config = tiny.replace(CONFIG, **places)
    config = tiny.replace(config, text_encoder={"source": "/home/me/runs/base"})
    path, other = tmp_path / "stage.safetensors", tmp_path / "other"
    save_stage_file(path, config, params, "float32")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode
    assert b"/home/me" not in path.read_bytes()
    assert load_weights(path).config == tiny.replace(
        config, data={"data_dir": ""}, text_encoder={"source": ""}
    )


def test_bfloat16_comes_back_rounded_as_float32_in_half_the_space(tmp_path, params, exported):
    path = tmp_path / "half.safetensors"
    save_stage_file(path, CONFIG, params, "bfloat16")
    _, loaded = load_stage_file(path)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    jax.tree.map(np.testing.assert_array_equal, loaded, rounded)
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    assert path.stat().st_size < 0.6 * exported.stat().st_size


def test_a_stage_may_hold_a_frozen_encoder_that_it_did_not_train(tmp_path, params):
    config = tiny.replace(CONFIG, text_encoder={"train": False, "source": "elsewhere"})
    path = tmp_path / "frozen.safetensors"
    save_stage_file(path, config, params, "float32")
    jax.tree.map(np.testing.assert_array_equal, load_weights(path).params, params)


def test_no_temporary_file_stays(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["stage.safetensors"]


def test_what_fails_half_way_is_named_and_leaves_the_old_file(exported, params, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    before = exported.read_bytes()
    monkeypatch.setattr(
        "imagen_jax.weights.tensors.on_host", fail
    )  # The header is written by then.
    with pytest.raises(UsageError, match=r"stage\.safetensors cannot be written: .*No space left"):
        save_stage_file(exported, CONFIG, params, "float32")
    assert exported.read_bytes() == before
    assert [path.name for path in exported.parent.iterdir()] == ["stage.safetensors"]


def rewrite(path, *, config=None, drop=None, add=None, reshape=None, metadata=None):
    """The same file with one thing wrong."""
    tensors, header = safetensors.numpy.load_file(path), open_file(path)[0]
    if drop:
        del tensors[drop]
    if add:
        tensors[add] = np.zeros(1, np.float32)
    if reshape:
        tensors[reshape] = tensors[reshape].reshape(-1)
    header = header if metadata is None else metadata
    if config is not None:
        header = {**header, "config": config}
    safetensors.numpy.save_file(tensors, path, metadata=header)


KERNEL = "unet.conv_in.kernel"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"drop": KERNEL}, r"1 tensors are missing \(unet.conv_in.kernel\)"),
        ({"add": "unet.extra"}, r"1 tensors are left over \(unet.extra\)"),
        ({"reshape": KERNEL}, r"unet.conv_in.kernel has shape \(864,\); its config says"),
        ({"metadata": {}}, "is not an exported stage: its header says format None"),
        ({"metadata": {"format": "pt"}}, "format 'pt'"),
        ({"config": "{}"}, r"stage.safetensors \(header\): .* required"),
        ({"config": "not json"}, r"stage.safetensors \(header\): .*JSON"),
    ],
)
def test_what_does_not_fit_is_named(exported, change, says):
    rewrite(exported, **change)
    with pytest.raises(UsageError, match=says):
        load_stage_file(exported)


def test_a_config_of_another_size_is_refused(tmp_path, params):
    path = tmp_path / "stage.safetensors"
    save_stage_file(path, tiny.stage(unet={"embed_dim": 16}), params, "float32")
    with pytest.raises(UsageError, match=r"has shape .*; its config says"):
        load_stage_file(path)


def test_a_header_without_a_config_is_refused(exported):
    rewrite(exported, metadata={"format": "imagen-jax stage 1"})
    with pytest.raises(UsageError, match=r"\(header\): the config: "):
        load_stage_file(exported)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_file_cut_short_is_refused(exported, keep):
    exported.write_bytes(exported.read_bytes()[:keep])
    with pytest.raises(
        UsageError, match=r"stage.safetensors is not a safetensors file or is cut short"
    ):
        load_stage_file(exported)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip archive", struct.pack("<Q", 2**60) + b"{}"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "stage.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a safetensors file"):
        load_stage_file(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_stage_file(tmp_path / "nothing.safetensors")
    with pytest.raises(UsageError, match="is a directory"):
        load_stage_file(tmp_path)


def test_a_command_does_not_write_over_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny.stage()
    save_stage_file(tmp_path / "a.safetensors", config, tiny.random_params(config), "float32")
    (tmp_path / "link.safetensors").symlink_to("a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    for out in ("a.safetensors", tmp_path / "a.safetensors", "link.safetensors"):
        says = f"{out} is what is read; name another file."
        refused(call(verbs, "export", "a.safetensors", out), says)
        refused(call(verbs, "tune", "a.safetensors", out, "--budget", 2), says)
        lora = ("convert", "deepfloyd-lora", "lora.safetensors", out, "--stage", "a.safetensors")
        refused(call(verbs, *lora), says)
    assert (tmp_path / "a.safetensors").read_bytes() == before
