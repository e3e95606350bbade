"""The base U-Net: size, zero start, and what each of its inputs must and must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from imagen_jax.config import UNetConfig
from imagen_jax.models.unet import UNet
from imagen_jax.stage import build_networks, init_params

# Two levels, the lower one attends; a low-resolution input, so that all paths are there.
CONFIG = tiny.stage(
    low_resolution=8,
    unet=UNetConfig(
        embed_dim=8, channel_mult=(1, 2), num_res_blocks=(1, 1), attention_resolutions=(8,),
        head_dim=8,
    ),
)  # fmt: skip


# Counts of parameters, from the architecture on paper.
def dense(inside, outside):
    return inside * outside + outside


def conv(kernel, inside, outside):
    return kernel**2 * inside * outside + outside


def res_block(inside, outside, embedding):
    """Two group norms, two convolutions, scale and shift, a 1x1 shortcut if widths differ."""
    shortcut = conv(1, inside, outside) if inside != outside else 0
    norms = 2 * inside + 2 * outside
    convs = conv(3, inside, outside) + conv(3, outside, outside)
    return norms + convs + dense(embedding, 2 * outside) + shortcut


def attention(channels, inner, text, self_attention=True):
    """Group norm, layer norm of the text, query, own and text keys and values, output."""
    own = dense(channels, 2 * inner) if self_attention else 0
    norms = 2 * channels + 2 * text
    return norms + dense(channels, inner) + own + dense(text, 2 * inner) + dense(inner, channels)


def embeddings(width, text, scalars):
    """Time (and aug_level) through two dense layers; the pooled text."""
    embedding = 4 * width
    scalar = dense(width, embedding) + dense(embedding, embedding)
    pooling = 2 * text + dense(text, text) + dense(text, 2 * text) + dense(text, embedding)
    return scalars * scalar + pooling


def paper_base(text):
    """Appendix F.1: 512 channels times 1, 2, 3, 4; three blocks; attention at 32, 16, 8."""
    d, e = 512, 2048
    one, two, three, four = d, 2 * d, 3 * d, 4 * d
    block = lambda inside, outside: res_block(inside, outside, e)  # noqa: E731
    attend = lambda channels: attention(channels, channels, text)  # noqa: E731
    down = (
        4 * block(one, one)  # three and the one that halves the side
        + (block(one, two) + 3 * block(two, two) + 3 * attend(two))
        + (block(two, three) + 3 * block(three, three) + 3 * attend(three))
        + (block(three, four) + 2 * block(four, four) + 3 * attend(four))
    )
    middle = 2 * block(four, four) + attend(four)
    # Going up a level has four blocks, each on its input beside one skip, and one that
    # doubles the side. The skips are, from below: the level's three blocks, then what the
    # level above handed down.
    up = (
        (3 * block(four + four, four) + block(four + three, four) + block(four, four))
        + (block(four + three, three) + 2 * block(three + three, three))
        + (block(three + two, three) + block(three, three))
        + (block(three + two, two) + 2 * block(two + two, two))
        + (block(two + one, two) + block(two, two))
        + (block(two + one, one) + 3 * block(one + one, one))
        + 4 * (attend(four) + attend(three) + attend(two))
    )
    ends = conv(3, 3, d) + 2 * d + conv(3, d, 3)
    return embeddings(d, text, scalars=1) + down + middle + up + ends


@pytest.mark.parametrize(("text", "count"), [(512, 2_134_630_915), (4096, 2_437_582_851)])
def test_the_papers_base_has_as_many_parameters_as_its_description(text, count):
    make = lambda: UNet(  # noqa: E731
        UNetConfig(), resolution=64, text_width=text, low_res=False, rngs=nnx.Rngs(0)
    )
    shapes = nnx.state(nnx.eval_shape(make), nnx.Param)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == paper_base(text) == count


def test_starts_as_zero_and_gives_float32_from_bfloat16():
    config = tiny.stage(unet={"dtype": "bfloat16"}, text_encoder={"train": False, "source": "none"})
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    networks, batch = build_networks(config), inputs(config)

    @jax.jit
    def predict(params, z, log_snr, text, mask):
        return networks.predict(params, z, log_snr, networks.encode_text(params, text, mask))

    arguments = [batch[name] for name in ("z", "log_snr", "text", "mask")]
    start = predict(params, *arguments)
    assert start.dtype == jnp.float32 and start.shape == batch["z"].shape
    assert not np.any(start)
    later = predict({"unet": tiny.random_params(config)["unet"]}, *arguments)
    assert np.all(np.isfinite(later)) and np.any(later)


def inputs(config, length=tiny.LENGTH):
    """Two pictures: the first caption has two tokens, the second all."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    batch = {
        "z": normal(2, config.resolution, config.resolution, 3),
        "log_snr": np.array([-1.0, 2.0], np.float32),
        "text": normal(2, length, tiny.T5.d_model),
        "mask": np.arange(length)[None] < np.array([[2], [length]]),
    }
    if config.low_resolution is not None:
        batch["low_res"] = normal(2, config.low_resolution, config.low_resolution, 3)
        batch["aug_level"] = np.array([0.1, 0.6], np.float32)
    return batch


@pytest.fixture(scope="module")
def model():
    """(batch) -> prediction, compiled once, and the batch."""
    networks, params = build_networks(CONFIG), tiny.random_params(CONFIG)

    @jax.jit
    def run(z, log_snr, text, mask, low_res, aug_level):
        state = networks.encode_text(params, text, mask)
        return networks.predict(params, z, log_snr, state, low_res=low_res, aug_level=aug_level)

    batch = inputs(CONFIG)
    return (lambda batch: np.asarray(run(**batch))), batch


@pytest.mark.parametrize("name", ["z", "log_snr", "text", "low_res", "aug_level"])
def test_every_input_of_a_picture_changes_its_prediction_and_no_other(model, name):
    run, batch = model
    changed = {**batch, name: batch[name].copy()}
    changed[name][1] = 0.5 * np.flip(changed[name][1]) + 0.1
    before, after = run(batch), run(changed)
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max() > 1e-3


def test_padding_has_no_influence(model):
    """Whatever stands in masked tokens; unmasked, the same tokens do matter."""
    run, batch = model
    garbage = np.where(batch["mask"][:, :, None], 0, 100 * batch["text"][::-1])
    changed = {**batch, "text": batch["text"] + garbage}
    np.testing.assert_array_equal(run(changed), run(batch))
    every = np.ones_like(batch["mask"])
    assert not np.allclose(run({**changed, "mask": every})[0], run(batch)[0], atol=1e-3)


def test_text_encoded_once_serves_every_step(model):
    """The state crosses a jit border and gives what encoding inside gives."""
    run, batch = model
    networks, params = build_networks(CONFIG), tiny.random_params(CONFIG)
    state = jax.jit(networks.encode_text)(params, batch["text"], batch["mask"])
    names = ("low_res", "aug_level")
    outside = jax.jit(networks.predict)(
        params, batch["z"], batch["log_snr"], state, **{name: batch[name] for name in names}
    )
    np.testing.assert_allclose(outside, run(batch), rtol=1e-5, atol=1e-5)
