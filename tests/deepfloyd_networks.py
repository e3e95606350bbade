"""Tiny U-Nets in the form of DeepFloyd IF, from the golden files that several test files share."""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from imagen_jax.conditions import Conditions
from imagen_jax.models.unet import UNet
from imagen_jax.weights.deepfloyd_if import open_unet

GOLDEN = Path(__file__).parent / "golden" / "deepfloyd_if"


def build(directory):
    """The graph definition and parameters of the network in diffusers' `unet` directory."""
    stored, parameters = open_unet(directory)
    params = jax.tree.map(lambda parameter: parameter.whole("float32"), parameters)
    make = lambda: UNet(  # noqa: E731
        stored.config, stored.inputs, resolution=stored.resolution, rngs=nnx.Rngs(0)
    )
    return nnx.graphdef(nnx.eval_shape(make)), params


@jax.jit(static_argnums=0)
def run(definition, params, sample, step, text, aug_step=None):
    """Output (batch, channels, height, width), projected text and pooled text."""
    unet = nnx.merge(definition, params)
    conditions = Conditions(
        text=text, mask=jnp.zeros(text.shape[:2], bool), pictures={"low_res": sample[..., 3:]},
        numbers={} if aug_step is None else {"aug_level": aug_step},
    )  # fmt: skip
    encoded = unet.encode(conditions)
    out = unet(sample[..., :3], step, encoded)
    return out.transpose(0, 3, 1, 2), unet.text_projection(text), encoded.text.pooled
