"""T5Encoder against PyTorch's T5, against closed forms, and its properties."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from imagen_jax.config import MeshConfig, T5Config
from imagen_jax.config.network import T5_PRESETS
from imagen_jax.models.t5 import T5Encoder, relative_position_bucket
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.weights.t5_names import load_t5

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_CONFIG = T5Config(vocab_size=96, d_model=32, num_layers=2, num_heads=3, d_kv=8, d_ff=40)
KINDS = {"t5": "gated-gelu", "t5_v1_0": "relu"}
TINY = T5Config(vocab_size=64, d_model=32, num_layers=2, num_heads=3, d_kv=8, d_ff=40)


def make(config):
    return T5Encoder(config, rngs=nnx.Rngs(0))


def make_params(config):
    return jax.jit(lambda: nnx.to_pure_dict(nnx.state(make(config), nnx.Param)))()


def load(directory, config):
    return load_t5(directory, config, make_mesh(MeshConfig()))


def run(config, params, token_ids, mask):
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(config)))
    encode = jax.jit(lambda params, *batch: nnx.merge(graphdef, params)(*batch))
    return np.asarray(encode(params, jnp.asarray(token_ids), jnp.asarray(mask)))


def some_batch(lengths, vocab_size=TINY.vocab_size, seed=0):
    """Token ids and mask of rows with so many real tokens each; padding has id 0."""
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    token_ids = np.random.default_rng(seed).integers(1, vocab_size, mask.shape) * mask
    return token_ids.astype(np.int32), mask


@pytest.fixture(scope="module")
def tiny():
    return make_params(TINY)


@pytest.fixture(scope="module", params=KINDS)
def golden(request):
    directory = GOLDEN / request.param
    config = dataclasses.replace(GOLDEN_CONFIG, feed_forward=KINDS[request.param])
    expected = safetensors.numpy.load_file(directory / "expected.safetensors")
    return config, load(directory, config), expected


@pytest.mark.parametrize("name", ["whole", "padded", "long"])
def test_equals_pytorch_golden(golden, name):
    config, params, expected = golden
    output = run(config, params, expected[f"{name}.token_ids"], expected[f"{name}.mask"])
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, expected[f"{name}.output"], rtol=1e-5, atol=1e-5)


LIVE = {
    "wide heads": dict(d_model=24, num_layers=1, num_heads=5, d_kv=12, d_ff=64),
    "few buckets": dict(
        d_model=48,
        num_layers=3,
        num_heads=2,
        d_kv=16,
        d_ff=56,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
    ),
    "deep": dict(d_model=32, num_layers=6, num_heads=4, d_kv=8, d_ff=32),
}


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("sizes", LIVE.values(), ids=LIVE.keys())
def test_equals_pytorch_on_other_sizes(sizes, kind, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(len(sizes) + sizes["num_layers"])
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=80, feed_forward_proj=kind, **sizes)
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name or "relative_attention_bias" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)

    config = T5Config(vocab_size=80, feed_forward=kind, **sizes)
    params = load(tmp_path, config)
    for lengths in ((1,), (5, 17), (200, 3, 150)):
        token_ids, mask = some_batch(lengths, config.vocab_size, seed=lengths[0])
        with torch.no_grad():
            expected = model.encoder(
                input_ids=torch.tensor(np.asarray(token_ids)).long(),
                attention_mask=torch.tensor(np.asarray(mask)),
            ).last_hidden_state.numpy()
        output = run(config, params, token_ids, mask)
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=2e-5)


def test_buckets_begin_where_the_powers_of_two_say():
    """8 * 2^(k/2) begins bucket 8 + k of T5's 32 buckets up to distance 128."""
    begins = [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]
    distance = np.arange(2000, dtype=np.int32)
    expected = np.searchsorted(begins, distance, side="right") - 1
    np.testing.assert_array_equal(relative_position_bucket(-distance, 32, 128), expected)
    np.testing.assert_array_equal(
        relative_position_bucket(distance[1:], 32, 128), expected[1:] + 16
    )


@pytest.mark.slow
def test_position_bias_depends_on_the_offset_only(tiny):
    encoder = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: make(TINY))), tiny)
    bias = np.asarray(encoder.position_bias(9))
    table = np.asarray(tiny["relative_bias"])
    assert bias.shape == (TINY.num_heads, 9, 9)
    np.testing.assert_array_equal(bias[:, 1:, 1:], bias[:, :-1, :-1])
    np.testing.assert_array_equal(bias[:, 4, 4], table[0])
    np.testing.assert_array_equal(bias[:, 4, 3], table[1])  # the key before the query
    np.testing.assert_array_equal(bias[:, 4, 5], table[17])  # the key after it


def test_padding_changes_nothing(tiny):
    token_ids, mask = some_batch((11, 4))
    output = run(TINY, tiny, token_ids, mask)
    garbage = run(TINY, tiny, np.where(mask, token_ids, 7), mask)
    wider = ((0, 0), (0, 21))
    longer = run(TINY, tiny, np.pad(token_ids, wider), np.pad(mask, wider))[:, :11]
    alone = run(TINY, tiny, token_ids[1:, :4], mask[1:, :4])
    np.testing.assert_allclose(garbage[mask], output[mask], atol=1e-5)
    np.testing.assert_allclose(longer[mask], output[mask], atol=1e-5)
    np.testing.assert_allclose(alone[0], output[1, :4], atol=1e-5)


def test_every_real_token_is_seen(tiny):
    token_ids, mask = some_batch((11, 11))
    token_ids[1] = token_ids[0]
    token_ids[1, 10] = token_ids[0, 10] % 63 + 1
    output = run(TINY, tiny, token_ids, mask)
    assert (np.abs(output[0] - output[1]).max(axis=-1) > 1e-4).all()


@pytest.mark.slow
def test_a_row_without_tokens_is_finite_and_so_are_its_gradients(tiny):
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(TINY)))
    token_ids, mask = map(jnp.asarray, some_batch((6, 0)))

    @jax.jit
    @jax.value_and_grad
    def total(params):
        return jnp.sum(nnx.merge(graphdef, params)(token_ids, mask) ** 2)

    value, gradients = total(tiny)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_all_state_is_float32_parameters():
    config = dataclasses.replace(TINY, dtype="bfloat16")
    everything = nnx.eval_shape(lambda: nnx.state(make(config)))
    parameters = nnx.eval_shape(lambda: nnx.state(make(config), nnx.Param))
    assert jax.tree.structure(everything) == jax.tree.structure(parameters)
    assert {leaf.dtype for leaf in jax.tree.leaves(everything)} == {jnp.dtype("float32")}


def test_bfloat16_is_close_to_float32(golden):
    config, params, expected = golden
    token_ids, mask = expected["padded.token_ids"], expected["padded.mask"]
    exact = run(config, params, token_ids, mask)[mask]
    rough = run(dataclasses.replace(config, dtype="bfloat16"), params, token_ids, mask)
    assert rough.dtype == np.float32
    error = np.abs(rough[mask] - exact)
    assert 1e-4 < np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(exact**2))


@pytest.mark.slow
def test_initial_values_have_the_spread_of_t5():
    config = T5Config(vocab_size=300, d_model=96, num_layers=1, num_heads=4, d_kv=32, d_ff=160)
    params = make_params(config)
    block = params["blocks"][0]
    attention, feed_forward = block["attention"], block["feed_forward"]
    expected = {
        "q": (attention["q"], (96 * 32) ** -0.5),
        "k": (attention["k"], 96**-0.5),
        "v": (attention["v"], 96**-0.5),
        "o": (attention["o"], 128**-0.5),
        "wi_0": (feed_forward["wi_0"], 96**-0.5),
        "wi_1": (feed_forward["wi_1"], 96**-0.5),
        "wo": (feed_forward["wo"], 160**-0.5),
    }
    first = make_params(dataclasses.replace(config, feed_forward="relu"))["blocks"][0]
    for name, std in (("wi", 96**-0.5), ("wo", 160**-0.5)):
        expected[f"first {name}"] = (first["feed_forward"][name], std)
    for name, (layer, std) in expected.items():
        np.testing.assert_allclose(np.std(layer["kernel"]), std, rtol=0.05, err_msg=name)
    np.testing.assert_allclose(np.std(params["token_embedding"]), 1.0, rtol=0.05)


KNOWN_MILLIONS = {"small": 35.33, "base": 109.6, "large": 341.2, "xl": 1224, "xxl": 4762}


@pytest.mark.parametrize("name", T5_PRESETS)
def test_parameter_count_of_presets(name):
    config = T5_PRESETS[name]
    shapes = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.state(make(config), nnx.Param)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    width, inner = config.d_model, config.num_heads * config.d_kv
    block = 4 * width * inner + 3 * width * config.d_ff + 2 * width
    other = 32128 * width + 32 * config.num_heads + width
    assert count == config.num_layers * block + other
    assert count / 1e6 == pytest.approx(KNOWN_MILLIONS[name], rel=1e-3)
