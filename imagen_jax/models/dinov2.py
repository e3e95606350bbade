"""DINOv2 (Oquab et al. 2023): pictures to features, learned from pictures alone."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from imagen_jax.arrays import Embedding, Images
from imagen_jax.config.encoders import DINOv2Config
from imagen_jax.models.blocks import Gather, as_they_are, whole
from imagen_jax.models.transformer import Block, PatchEmbedding, layer_norm, run_transformer

_EPSILON = 1e-6
_CUBIC = -0.75
"""PyTorch's parameter of the cubic kernel."""


class DINOv2(nnx.Module):
    """A Transformer over patches and a class token; all of its state is `nnx.Param`."""

    def __init__(self, config: DINOv2Config, *, rngs: nnx.Rngs) -> None:
        normal, count = jax.random.normal, config.grid**2 + 1
        self.config = config
        self.patches = PatchEmbedding(config, bias=True, rngs=rngs)
        self.class_token = nnx.Param(0.02 * normal(rngs.params(), (1, 1, config.width)))
        self.positions = nnx.Param(0.02 * normal(rngs.params(), (1, count, config.width)))
        self.blocks = nnx.List(
            [
                Block(config, epsilon=_EPSILON, scaled=True, rngs=rngs)
                for _ in range(config.num_layers)
            ]
        )
        self.norm = layer_norm(config.width, _EPSILON, rngs)

    def __call__(self, pictures: Images, *, gather: Gather = as_they_are) -> Embedding:
        """The class token's last state after its norm, float32.

        Args:
            pictures: of any size, less ImageNet's mean and over its deviation. Where their patches
                are not as many as the position embeddings were made for, these are enlarged or
                reduced bicubically.
            gather: brings a block's sharded parameters together where the block runs.
        """
        x = whole(self.patches, gather)(pictures)
        token = jnp.broadcast_to(self.class_token[...], (len(x), 1, x.shape[2]))
        rows, columns = (size // self.config.patch for size in pictures.shape[1:3])
        positions = self._positions(gather(self.positions[...]), rows, columns)
        x = jnp.concatenate([token.astype(jnp.float32), x], axis=1) + positions
        mask = jnp.ones(x.shape[:2], bool)
        states = run_transformer(self.blocks, x, None, mask, self.config, gather)
        return self.norm(states[-1][:, 0])

    def _positions(
        self, positions: Float[Array, "1 tokens width"], rows: int, columns: int
    ) -> Float[Array, "1 _ width"]:
        """Position embeddings of the class token and of so many patches."""
        positions, grid = positions.astype(jnp.float32), self.config.grid
        if rows == columns == grid:
            return positions
        down, across = (jnp.asarray(cubic_weights(grid, size)) for size in (rows, columns))
        square = positions[0, 1:].reshape(grid, grid, -1)
        resized = jnp.einsum("HI,WJ,IJE->HWE", down, across, square)
        return jnp.concatenate([positions[:, :1], resized.reshape(1, rows * columns, -1)], axis=1)


def cubic_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """How much each of `size` samples counts in each of `new_size`: cubic interpolation.

    Keys 1981 with a = -3/4, no low-pass filter, and the samples at the ends go on beyond them:
    PyTorch's `interpolate` with `bicubic`. Position i of the new ones lies at
    (i + 1/2) size / new_size - 1/2 of the old.
    """
    place = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(place).astype(int)
    weights = np.zeros((new_size, size))
    for offset in range(-1, 3):
        sample = first + offset
        columns = sample.clip(0, size - 1)
        weights[np.arange(new_size), columns] += _cubic(np.abs(place - sample))
    return weights.astype(np.float32)


def _cubic(distance: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    a, x = _CUBIC, distance
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
