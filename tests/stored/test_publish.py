"""A stage from this machine to the hub and back, with its card."""

import fake_hub
import jax
import numpy as np
import pytest
import tiny
import yaml
from scripts import call, refused, sample, verbs

import imagen_jax
from imagen_jax.weights.stage_file import load_stage_file, save_stage_file


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub.running(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def file(tmp_path):
    config = tiny.stage(name="apples", sampling={"num_steps": 1})
    save_stage_file(tmp_path / "a.safetensors", config, tiny.random_params(config), "float32")
    return tmp_path / "a.safetensors"


def published(hub):
    return hub.repositories["me/apples"].files


@pytest.mark.slow
def test_a_published_file_is_loaded_by_its_address(hub, file):
    result = call(verbs, "publish", file, "me/apples", "--license", "apache-2.0")
    assert (result.code, result.out) == (0, f"{hub.address}/me/apples\n"), result.err
    assert published(hub)["stage.safetensors"] == file.read_bytes()
    stage = imagen_jax.load_stage("hf://me/apples")
    assert stage.config == load_stage_file(file)[0]
    assert stage.unet.fingerprint() == imagen_jax.load_stage(file).unet.fingerprint()


@pytest.mark.slow
def test_the_shell_takes_an_address_wherever_it_takes_a_stage(hub, file, tmp_path):
    assert call(verbs, "publish", file, "hf://me/apples").code == 0
    out = tmp_path / "out"
    result = call(sample, "a red apple", "--base", "hf://me/apples", "--out", out)
    assert result.code == 0, result.err
    again = tmp_path / "b.safetensors"
    result = call(verbs, "export", "hf://me/apples", again, "--dtype", "float32")
    assert result.code == 0, result.err
    (_, before), (_, after) = load_stage_file(file), load_stage_file(again)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    refused(call(sample, "a", "--base", "hf://me/pears"), "hf://me/pears does not exist")
    refused(call(verbs, "plot", "hf://me/apples"), "only stages and text encoders")


def test_the_card_says_what_it_is_and_how_it_is_used(hub, file):
    call(verbs, "publish", file, "me/apples", "--license", "apache-2.0")
    _, header, text = published(hub)["README.md"].decode().split("---\n", 2)
    said = yaml.safe_load(header)
    assert (said["license"], said["library_name"]) == ("apache-2.0", "imagen-jax")
    assert said["pipeline_tag"] == "text-to-image"
    assert "paints 16x16 pixels" in text and 'base="hf://me/apples"' in text
    count = sum(x.size for x in jax.tree.leaves(load_stage_file(file)[1]))
    assert f"| parameters in the file | {count:,} |" in text


def test_a_card_that_is_there_stays_unless_another_is_given(hub, file, tmp_path):
    hub.add("me/apples", {"README.md": b"written by hand"})
    assert call(verbs, "publish", file, "me/apples").code == 0
    assert published(hub)["README.md"] == b"written by hand"
    (tmp_path / "card.md").write_text("# Äpfel")
    assert call(verbs, "publish", file, "me/apples", "--card", tmp_path / "card.md").code == 0
    assert published(hub)["README.md"].decode() == "# Äpfel"
    (tmp_path / "card.md").write_text("")
    assert call(verbs, "publish", file, "me/apples", "--card", tmp_path / "card.md").code == 0
    assert published(hub)["README.md"] == b""


def test_a_new_repository_may_be_private(hub, file):
    assert call(verbs, "publish", file, "me/apples", "--private").code == 0
    assert hub.repositories["me/apples"].private
    assert call(verbs, "publish", file, "me/apples", "--private").code == 0


def test_what_is_to_be_private_is_not_uploaded_to_a_public_repository(hub, file):
    hub.add("me/apples", {"README.md": b"for all to see"})
    says = "hf://me/apples is there already, and public; make it private on its page"
    refused(call(verbs, "publish", file, "me/apples", "--private"), says)
    assert published(hub) == {"README.md": b"for all to see"}


def test_what_only_this_machine_has_is_not_published(hub, tmp_path):
    encoder = {"train": False, "source": "/home/me/t5"}
    config = tiny.stage(text_encoder=encoder)
    params = {"unet": tiny.random_params(tiny.stage())["unet"]}
    save_stage_file(tmp_path / "a.safetensors", config, params, "float32")
    says = "names its text_encoder.source as /home/me/t5, which only this machine has"
    refused(call(verbs, "publish", tmp_path / "a.safetensors", "me/apples"), says)
    assert hub.repositories == {}


def test_a_mistake_is_one_sentence(hub, file, tmp_path, monkeypatch):
    refused(call(verbs, "publish", file, "apples"), "must be named as owner/name")
    refused(call(verbs, "publish", tmp_path / "no", "me/apples"), "neither a training directory")
    refused(call(verbs, "publish", file, "me/a", "--weights", "raw"), "holds ema weights only")
    (tmp_path / "x.safetensors").write_bytes(b"x" * 100)
    refused(call(verbs, "publish", tmp_path / "x.safetensors", "me/a"), "not a safetensors file")
    refused(call(verbs, "publish", file, "me/a", "--card", tmp_path / "no.md"), "--card", "no.md")
    monkeypatch.setenv("HF_TOKEN", "another token")
    refused(call(verbs, "publish", file, "me/apples"), "is refused; HF_TOKEN or")
    assert hub.repositories == {}
