"""The U-Net with DeepFloyd IF's fields, against what diffusers computes with the same weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from imagen_jax.models.unet import UNet
from imagen_jax.weights.deepfloyd_if import load_unet

GOLDEN = Path(__file__).parents[1] / "golden" / "deepfloyd_if"
STAGES = ("stage_1", "stage_2")


def build(directory):
    """The graph definition and parameters of the network in diffusers' `unet` directory."""
    stored, params = load_unet(directory)
    make = lambda: UNet(  # noqa: E731
        stored.config, resolution=stored.resolution, text_width=stored.text_width,
        low_res=stored.low_res, rngs=nnx.Rngs(0),
    )  # fmt: skip
    return nnx.graphdef(nnx.eval_shape(make)), params


@jax.jit(static_argnums=0)
def run(definition, params, sample, step, text, aug_step=None):
    """Output (batch, channels, height, width), projected text and pooled text."""
    unet = nnx.merge(definition, params)
    state = unet.encode_text(text, jnp.zeros(text.shape[:2], bool))
    pictures = [sample[..., 3 * i : 3 * i + 3] for i in range(sample.shape[-1] // 3)]
    out = unet(pictures[0], step, state, *pictures[1:], aug_level=aug_step)
    return out.transpose(0, 3, 1, 2), unet.text_projection(text), state.pooled


def outputs(directory, arrays):
    """`run` on inputs as diffusers has them."""
    definition, params = build(directory)
    arrays = {name: np.asarray(x) for name, x in arrays.items()}
    aug_step = arrays.get("class_labels")
    return run(
        definition, params, arrays["sample"].transpose(0, 2, 3, 1),
        arrays["timestep"].astype(np.float32), arrays["encoder_hidden_states"],
        None if aug_step is None else aug_step.astype(np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module", params=STAGES)
def golden(request):
    """(what diffusers gave, what we give) of a stage."""
    stored = safetensors.numpy.load_file(GOLDEN / "expected.safetensors")
    prefix = f"{request.param}.network."
    arrays = {name.removeprefix(prefix): x for name, x in stored.items() if prefix in name}
    return arrays, outputs(GOLDEN / request.param / "unet", arrays)


@pytest.mark.parametrize(
    ("index", "name", "tolerance"),
    [(0, "output", 2e-5), (1, "projected", 1e-5), (2, "pooled", 1e-5)],
)
def test_equals_diffusers_golden(golden, index, name, tolerance):
    expected, ours = golden
    assert np.abs(expected[name]).max() > 0.1
    np.testing.assert_allclose(ours[index], expected[name], rtol=0, atol=tolerance)
