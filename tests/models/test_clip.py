"""CLIP against PyTorch's CLIPModel, and its properties."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from imagen_jax.config import MeshConfig
from imagen_jax.config.encoders import CLIP_PRESETS
from imagen_jax.models.clip import CLIP, CLIPText
from imagen_jax.parallel.mesh import gather_parameters, make_mesh
from imagen_jax.weights.clip_names import load_clip, load_clip_text, read_clip_text_config

GOLDEN = Path(__file__).parents[1] / "golden" / "clip"


def abstract(config):
    return nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0)))


def run(config, params, method, *inputs, **kwargs):
    graph = nnx.graphdef(abstract(config))
    call = jax.jit(lambda params, *x: getattr(nnx.merge(graph, params), method)(*x, **kwargs))
    return np.asarray(call(params, *inputs))


def run_text(config, params, token_ids, mask):
    graph = nnx.graphdef(nnx.eval_shape(lambda: CLIPText(config, rngs=nnx.Rngs(0))))
    call = jax.jit(lambda params, *x: nnx.merge(graph, params)(*x))
    return jax.tree.map(np.asarray, call(params, token_ids, mask))


@pytest.fixture(scope="module")
def golden():
    mesh = make_mesh(MeshConfig())
    return *load_clip(GOLDEN, mesh), safetensors.numpy.load_file(GOLDEN / "expected.safetensors")


def assert_close(ours, theirs):
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_embeddings_equal_the_golden_of_pytorch(golden):
    config, params, expected = golden
    texts = run(config, params, "embed_texts", expected["token_ids"], expected["mask"])
    assert_close(texts, expected["texts"])
    pictures = run(config, params, "embed_pictures", expected["pictures"])
    assert_close(pictures, expected["embedded"])


def test_states_of_tokens_equal_the_golden_of_pytorch(golden):
    config, params, expected = golden
    mask = expected["mask"]
    states = run_text(config.text, params["text"], expected["token_ids"], mask)
    assert_close(states.last[mask], expected["last"][mask])
    assert_close(states.penultimate[mask], expected["penultimate"][mask])


LIVE = {
    "exact gelu, an old end": (
        dict(hidden_act="gelu", eos_token_id=2),
        dict(hidden_act="gelu", image_size=16, patch_size=8),
    ),
    "one layer each": (dict(num_hidden_layers=1), dict(num_hidden_layers=1)),
}


@pytest.mark.parametrize("name", LIVE)
def test_equals_pytorch_on_other_sizes(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    text, vision = LIVE[name]
    text = dict(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=9, eos_token_id=49, projection_dim=8,
    ) | text  # fmt: skip
    vision = dict(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3,
        image_size=13, patch_size=4,
    ) | vision  # fmt: skip
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        token_ids = torch.tensor([[48, 3, 7, 49, 0], [48, 5, 49, 0, 0]])
        mask = torch.tensor([[True] * 4 + [False], [True] * 3 + [False] * 2])
        pictures = torch.randn(2, 3, vision["image_size"], vision["image_size"])
        states = model.text_model(
            input_ids=token_ids, attention_mask=mask, output_hidden_states=True
        )
        texts = model.text_projection(states.pooler_output).numpy()
        embedded = model.get_image_features(pictures).pooler_output.numpy()
    model.save_pretrained(tmp_path / "whole")

    config, params = load_clip(tmp_path / "whole", make_mesh(MeshConfig()))
    batch = token_ids.numpy().astype(np.int32), mask.numpy()
    assert_close(run(config, params, "embed_texts", *batch), texts)
    ours = run(config, params, "embed_pictures", pictures.permute(0, 2, 3, 1).numpy())
    assert_close(ours, embedded)
    own = run_text(config.text, params["text"], *batch)
    assert_close(own.penultimate[batch[1]], states.hidden_states[-2].numpy()[batch[1]])
    for kind in (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection):
        kind.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "text")
        assert read_clip_text_config(tmp_path / "text") == config.text
        alone = load_clip_text(tmp_path / "text", config.text, make_mesh(MeshConfig()))
        jax.tree.map(np.testing.assert_array_equal, alone, params["text"])


def test_a_token_is_seen_by_those_behind_it_alone(golden):
    config, params, expected = golden
    token_ids, mask = expected["token_ids"][[0, 0]].copy(), expected["mask"][[0, 0]]
    token_ids[1, 5] = token_ids[0, 5] % 57 + 1
    states = run_text(config.text, params["text"], token_ids, mask)
    moved = np.abs(states.last[0] - states.last[1]).max(-1)
    assert (moved[:5] == 0).all() and (moved[5:] > 1e-4).all()


@pytest.mark.slow
def test_what_is_behind_the_end_changes_nothing(golden):
    config, params, expected = golden
    token_ids, mask = expected["token_ids"], expected["mask"]
    texts = run(config, params, "embed_texts", token_ids, mask)
    garbage = np.where(mask, token_ids, config.text.end_id)
    assert_close(run(config, params, "embed_texts", garbage, mask), texts)
    alone = run(config, params, "embed_texts", token_ids[1:2, :3], mask[1:2, :3])
    assert_close(alone, texts[1:2])


@pytest.mark.slow
def test_parameters_in_parts_give_what_whole_ones_give(golden, monkeypatch):
    config, whole, expected = golden
    monkeypatch.setattr("imagen_jax.parallel.mesh._REPLICATE_BELOW", 1)
    mesh = make_mesh(MeshConfig(fsdp=4))
    _, params = load_clip(GOLDEN, mesh)
    kernel = params["text"]["blocks"][0]["dense_1"]["kernel"]
    assert not kernel.sharding.is_fully_replicated
    gather = lambda tree: gather_parameters(tree, mesh=mesh, dtype="float32")  # noqa: E731
    for method, names in (("embed_texts", ("token_ids", "mask")), ("embed_pictures", ["pictures"])):
        inputs = [expected[name] for name in names]
        parts = run(config, params, method, *inputs, gather=gather)
        assert_close(parts, run(config, whole, method, *inputs))


def test_scanned_blocks_give_what_a_loop_gives(golden):
    config, params, expected = golden
    mask = expected["mask"]
    loop = run_text(config.text, params["text"], expected["token_ids"], mask)
    scanned = dataclasses.replace(config.text, remat="full")
    scan = run_text(scanned, params["text"], expected["token_ids"], mask)
    jax.tree.map(assert_close, scan, loop)


def test_all_state_is_float32_parameters(golden):
    module = abstract(golden[0])
    everything, parameters = nnx.state(module), nnx.state(module, nnx.Param)
    assert jax.tree.structure(everything) == jax.tree.structure(parameters)
    assert {leaf.dtype for leaf in jax.tree.leaves(everything)} == {jnp.dtype("float32")}


KNOWN_MILLIONS = {"b32": 151.3, "l14_336": 427.9}


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN_MILLIONS)
def test_parameter_count_of_presets(name):
    """Those that OpenAI's models are known to have."""
    count = sum(x.size for x in jax.tree.leaves(nnx.state(abstract(CLIP_PRESETS[name]))))
    assert count / 1e6 == pytest.approx(KNOWN_MILLIONS[name], rel=4e-4)
