"""Reading CLIP of Hugging Face: what is accepted, and what is said of the rest."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from imagen_jax.cli import verbs
from imagen_jax.config import MeshConfig
from imagen_jax.config.encoders import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from imagen_jax.errors import UsageError
from imagen_jax.models.clip import CLIP
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.weights.clip_names import (
    clip_names,
    load_clip,
    load_clip_text,
    read_clip_config,
    read_clip_text_config,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "clip"
WEIGHTS = "model.safetensors"
CONFIG = CLIPConfig(
    text=CLIPTextConfig(
        width=24, hidden=40, num_layers=3, num_heads=3, vocab_size=60, max_length=12, end_id=59
    ),
    vision=CLIPVisionConfig(width=32, hidden=48, num_layers=2, num_heads=4, side=20, patch=6),
    embedding=16,
)


@pytest.fixture
def directory(tmp_path):
    for name in ("config.json", WEIGHTS):
        shutil.copy(GOLDEN / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


def rewrite(directory, change):
    tensors = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, directory / WEIGHTS)


def rewrite_config(directory, part="", **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    (config[part] if part else config).update(changes)
    path.write_text(json.dumps(config))


def test_sizes_come_from_the_config():
    assert read_clip_config(GOLDEN) == CONFIG
    assert read_clip_text_config(GOLDEN) == CONFIG.text


def test_every_tensor_is_named_once():
    names = clip_names(CONFIG)
    assert set(names) == set(safetensors.numpy.load_file(GOLDEN / WEIGHTS))
    assert len(set(names.values())) == len(names)


def test_params_have_the_structure_of_the_module(mesh):
    _, params = load_clip(GOLDEN, mesh)
    module = nnx.eval_shape(lambda: nnx.state(CLIP(CONFIG, rngs=nnx.Rngs(0)), nnx.Param))
    module = nnx.to_pure_dict(module)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (params, module)]
    assert shapes[0] == shapes[1]


def test_each_value_is_where_it_belongs(mesh):
    _, params = load_clip(GOLDEN, mesh)
    stored = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    assert params["log_scale"] == stored["logit_scale"]
    np.testing.assert_array_equal(
        params["vision"]["patches"]["kernel"],
        stored["vision_model.embeddings.patch_embedding.weight"].transpose(3, 2, 1, 0),
    )
    np.testing.assert_array_equal(
        params["text"]["blocks"][1]["attention"]["out"]["kernel"],
        stored["text_model.encoder.layers.1.self_attn.out_proj.weight"].T,
    )


def test_numbers_of_positions_are_left_out(directory, mesh):
    def add(tensors):
        for tower in ("text", "vision"):
            tensors[f"{tower}_model.embeddings.position_ids"] = np.arange(12)[None]

    rewrite(directory, add)
    jax.tree.map(np.testing.assert_array_equal, load_clip(directory, mesh), load_clip(GOLDEN, mesh))


def test_configs_of_several_ages_are_read(directory):
    """The first ones said all twice, and called the end of a text 2."""
    text = json.loads((GOLDEN / "config.json").read_text())["text_config"]
    rewrite_config(directory, "text_config", hidden_size=512, eos_token_id=2)
    rewrite_config(directory, text_config_dict={"hidden_size": text["hidden_size"]})
    rewrite_config(directory, vision_config_dict=None)
    assert read_clip_config(directory) == CONFIG


def test_what_a_config_leaves_out_is_that_of_b32(directory):
    path = directory / "config.json"
    path.write_text(json.dumps({"model_type": "clip", "text_config": {}, "vision_config": {}}))
    config = read_clip_config(directory)
    assert (config.text.width, config.vision.patch, config.embedding) == (512, 32, 512)


@pytest.mark.parametrize("name", ["visual_projection.weight", "text_model.final_layer_norm.bias"])
def test_a_missing_tensor_is_named(directory, mesh, name):
    rewrite(directory, lambda tensors: tensors.pop(name))
    with pytest.raises(UsageError, match=f"1 tensors are missing \\({name}\\)"):
        load_clip(directory, mesh)


def test_a_tensor_left_over_is_named(directory, mesh):
    rewrite(directory, lambda tensors: tensors.update(extra=np.ones(3, np.float32)))
    with pytest.raises(UsageError, match=r"1 tensors are left over \(extra\)"):
        load_clip(directory, mesh)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("", {"model_type": "siglip"}, "model_type 'siglip'; CLIP has 'clip'"),
        ("", {"text_config": [1]}, r"text_config \[1\]; it must be an object"),
        ("", {"projection_dim": None}, "projection_dim None; it must be an integer"),
        ("text_config", {"hidden_act": "relu"}, "hidden_act 'relu'; what can be read is"),
        ("text_config", {"hidden_size": "x"}, "hidden_size 'x'; it must be an integer"),
        ("text_config", {"eos_token_id": 60}, "end_id is 60; it must be below vocab_size, 60"),
        ("vision_config", {"num_channels": 1}, "num_channels 1; CLIP has 3"),
        ("vision_config", {"patch_size": 21}, "side is 20; it must be at least a patch's, 21"),
        ("vision_config", {"num_attention_heads": 5}, "width is 32; it must be a multiple"),
        ("vision_config", {"patch_size": 5}, r"has shape \(32, 3, 6, 6\)|has shape \(10, 32\)"),
    ],
)
def test_another_network_is_refused(directory, mesh, part, change, said):
    rewrite_config(directory, part, **change)
    with pytest.raises(UsageError, match=said):
        load_clip(directory, mesh)


def test_a_directory_without_clip_is_refused(tmp_path, mesh):
    with pytest.raises(UsageError, match=r"config.json cannot be read: No such file"):
        load_clip(tmp_path, mesh)
    with pytest.raises(UsageError, match=r"has model_type 't5'; CLIP has 'clip'"):
        load_clip(GOLDEN.with_name("t5"), mesh)
    shutil.copy(GOLDEN / "config.json", tmp_path)
    with pytest.raises(UsageError, match=r"holds neither model.safetensors nor"):
        load_clip(tmp_path, mesh)


def test_a_converted_file_is_read_like_its_directory(directory, mesh, tmp_path):
    out = tmp_path / "clip.safetensors"
    verbs.Convert("clip", GOLDEN, out).run()
    (config, params), (wanted, expected) = load_clip(out, mesh), load_clip(GOLDEN, mesh)
    assert config == wanted
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    with pytest.raises(UsageError, match="is not a file that `convert clip` wrote"):
        load_clip(directory / WEIGHTS, mesh)


def test_weights_of_pytorch_are_converted(directory, mesh, tmp_path_factory):
    torch = pytest.importorskip("torch")
    stored = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    (directory / WEIGHTS).unlink()
    state = {name: torch.from_numpy(x) for name, x in stored.items()}
    torch.save(state, directory / "pytorch_model.bin")
    out = tmp_path_factory.mktemp("out") / "clip.safetensors"
    verbs.Convert("clip", directory, out).run()
    expected = load_clip(GOLDEN, mesh)[1]
    jax.tree.map(np.testing.assert_array_equal, load_clip(out, mesh)[1], expected)


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_a_text_tower_alone_is_the_same(directory, mesh, prefix):
    """As pipelines of diffusers have it, and as transformers 5 writes it."""
    tensors = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
    alone = {
        prefix + name.removeprefix("text_model."): x
        for name, x in tensors.items() if name.startswith("text_model.")
    }  # fmt: skip
    safetensors.numpy.save_file(alone, directory / WEIGHTS)
    text = json.loads((GOLDEN / "config.json").read_text())["text_config"]
    (directory / "config.json").write_text(json.dumps(text))
    whole, alone = (load_clip_text(path, CONFIG.text, mesh) for path in (GOLDEN, directory))
    jax.tree.map(np.testing.assert_array_equal, alone, whole)


def test_another_size_than_the_configuration_is_named(mesh):
    config = dataclasses.replace(CONFIG.text, num_layers=2)
    with pytest.raises(UsageError, match="has num_layers 3; the configuration has 2"):
        load_clip_text(GOLDEN, config, mesh)


def test_a_frozen_tower_lies_in_the_dtype_of_its_computation(mesh):
    params = load_clip_text(GOLDEN, dataclasses.replace(CONFIG.text, dtype="bfloat16"), mesh)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"bfloat16"}
