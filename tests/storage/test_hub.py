"""What is fetched from the hub and what never is, and each refusal as one sentence."""

import time

import fake_hub
import pytest
from huggingface_hub import constants

from imagen_jax.errors import UsageError
from imagen_jax.storage.files import to_path
from imagen_jax.storage.hub import repository, stage_path

CODE = {"model.py": b"import os", "weights.bin": b"pickle", "README.md": b"# card"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub.running(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def test_a_published_stage_is_fetched_and_nothing_else(hub):
    hub.add("me/apples", {"stage.safetensors": b"weights", "other.safetensors": b"", **CODE})
    assert stage_path("hf://me/apples").read_bytes() == b"weights"
    assert hub.fetched == ["stage.safetensors"]


def test_the_only_file_of_a_repository_is_its_stage_and_of_several_one_is_named(hub):
    hub.add("me/one", {"base.safetensors": b"base", "deep/x.safetensors": b"", **CODE})
    assert stage_path("hf://me/one").read_bytes() == b"base"
    hub.add("me/two", {"base.safetensors": b"base", "sr.safetensors": b"sr"})
    with pytest.raises(UsageError, match="holds 2 safetensors; name one of them: hf://me/two/base"):
        stage_path("hf://me/two")
    assert stage_path("hf://me/two/sr.safetensors").read_bytes() == b"sr"
    assert stage_path("hf://me/one/deep/x.safetensors").read_bytes() == b""
    assert stage_path("hf://me/two@v1/sr.safetensors").name == "sr.safetensors"


def test_of_a_directory_with_a_config_json_and_safetensors_are_fetched(hub):
    files = {"config.json": b"{}", "model.safetensors": b"t5", **CODE}
    deep = {f"text_encoder/{name}": b" " + content for name, content in files.items()}
    hub.add("me/t5", files | deep | {"text_encoder/deeper/config.json": b"{}"})
    for address, inside in (("hf://me/t5", ""), ("hf://me/t5/text_encoder", "text_encoder/")):
        hub.fetched.clear()
        path = stage_path(address)
        assert sorted(hub.fetched) == [f"{inside}config.json", f"{inside}model.safetensors"]
        assert (path / "config.json").read_bytes().strip() == b"{}"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("hf://me/nothing", "hf://me/nothing does not exist, or is private"),
        ("hf://me/closed", "hf://me/closed is gated: agree to its terms"),
        ("hf://me/apples@v9/a.safetensors", "does not exist: its repository has no such part"),
        ("hf://me/apples/b.safetensors", "does not exist: its repository has no such part"),
        ("hf://me/code", "hf://me/code holds no safetensors there"),
        ("hf://me/code/model.py", "holds no safetensors there"),
        ("hf://me/code/weights.bin", "holds no safetensors there"),
        ("hf://me", "is no address on the hub"),
        ("hf://", "is no address on the hub"),
        ("hf:me/apples", "is no address on the hub"),
        ("hf://me/apples/../../etc/x.safetensors", "is no address on the hub"),
        ("hf://me/apples//etc/x.safetensors", "is no address on the hub"),
        ("hf://me/apples@", "is no address on the hub"),
        ("hf://.../a", "cannot be reached"),
    ],
)  # fmt: skip
def test_each_refusal_is_one_sentence(hub, address, says):
    hub.add("me/apples", {"a.safetensors": b""})
    hub.add("me/closed", {"stage.safetensors": b""}, gated=True)
    hub.add("me/code", CODE)
    with pytest.raises(UsageError) as error:
        stage_path(address)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert hub.fetched == []


def test_a_private_repository_is_read_with_a_token(hub, monkeypatch):
    hub.add("me/mine", {"stage.safetensors": b"mine"}, private=True)
    assert stage_path("hf://me/mine").read_bytes() == b"mine"
    monkeypatch.setenv("HF_TOKEN", "another token")
    with pytest.raises(UsageError, match="is private and neither HF_TOKEN nor"):
        stage_path("hf://me/mine/other.safetensors")


def test_without_a_network_what_was_fetched_is_there_and_the_rest_is_said(hub, monkeypatch):
    hub.add("me/apples", {"stage.safetensors": b"weights"})
    stage_path("hf://me/apples")
    fake_hub.ask(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # It tries five times more.
    assert stage_path("hf://me/apples").read_bytes() == b"weights"
    with pytest.raises(UsageError, match="hf://me/pears cannot be reached: "):
        stage_path("hf://me/pears")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert stage_path("hf://me/apples").read_bytes() == b"weights"
    with pytest.raises(UsageError, match="and HF_HUB_OFFLINE forbids to ask the hub"):
        stage_path("hf://me/pears")


def test_other_paths_are_as_they_were(tmp_path):
    assert stage_path(str(tmp_path)) == tmp_path
    with pytest.raises(UsageError, match="only stages and text encoders are read from it"):
        to_path("hf://me/apples")


def test_a_repository_is_named_by_owner_and_name():
    assert repository("me/a.b-c") == repository("hf://me/a.b-c") == "me/a.b-c"
    for name in ("me", "me/a/b", "me/a@v1", "/a", "me/", "", "a b/c"):
        with pytest.raises(UsageError, match="must be named as owner/name"):
            repository(name)
