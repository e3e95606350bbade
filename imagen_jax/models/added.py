"""Conditions that begin without any effect, so that a stage can be taught them later."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32

from imagen_jax import ops
from imagen_jax.arrays import Embedding, Features
from imagen_jax.config import NetworkInputs
from imagen_jax.config.choices import Activation
from imagen_jax.models.layers import ScalarEmbedding, at_size_of, conv


class Added(nnx.Module):
    """Pictures, numbers and a class, each added to what the network computes without it.

    Each has a last layer that starts as zero: a stage that begins with the weights of another one
    gives what that one gives, and the first update changes it (as ControlNet's, Zhang et al. 2023).

    Args:
        inputs: of the network.
        width: channels after the stem, to whose result the pictures are added.
        embedding: width of the time embedding, to which numbers and class are added.
        patch_size: of the stem.
    """

    def __init__(
        self,
        inputs: NetworkInputs,
        *,
        width: int,
        embedding: int,
        patch_size: int,
        activation: Activation,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        kwargs = {"zero": True, "dtype": dtype, "rngs": rngs}
        self.patch_size = patch_size
        self.pictures = nnx.Dict(
            {x.name: conv(x.channels * patch_size**2, width, **kwargs) for x in inputs.pictures}
        )
        self.numbers = nnx.Dict(
            {
                name: ScalarEmbedding(width, embedding, activation=activation, **kwargs)
                for name in (*inputs.numbers, *inputs.settings)
            }
        )
        self.null_class = inputs.classes
        self.classes = (
            nnx.Param(jnp.zeros((inputs.classes + 1, embedding))) if inputs.classes else None
        )

    def to_embedding(
        self,
        embedding: Embedding,
        numbers: Mapping[str, Float[Array, " batch"]],
        label: Int32[Array, " batch"] | None,
    ) -> Embedding:
        """The time embedding with numbers and class; a negative label has the null class's."""
        for name, layer in self.numbers.items():
            embedding = embedding + layer(numbers[name])
        if self.classes is not None:
            row = jnp.where(label < 0, self.null_class, label)
            embedding = embedding + self.classes[...][row].astype(embedding.dtype)
        return embedding

    def to_features(
        self,
        x: Features,
        z: Features,
        pictures: Mapping[str, Features],
        shown: Mapping[str, Bool[Array, " batch"]],
    ) -> Features:
        """The stem's result x for z, with the pictures, each of any size.

        Without a picture, where `shown` says so, it is what a stage gives that knows of none.
        """
        for name, layer in self.pictures.items():
            picture = ops.space_to_depth(at_size_of(z, pictures[name]), self.patch_size)
            added = layer(picture)
            if name in shown:
                added = jnp.where(shown[name][:, None, None, None], added, 0)
            x = x + added
        return x
