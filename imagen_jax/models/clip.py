"""CLIP (Radford et al. 2021): texts and pictures to embeddings that lie close if they belong.

Two Transformers of pre-norm blocks: one over tokens, each of which attends to those before it, one
over a picture's patches and a class token. A text's embedding is taken at its end, a picture's at
the class token.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from imagen_jax.arrays import Embedding, Images, TextEmbeddings, TextMask, TokenIds
from imagen_jax.config.encoders import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from imagen_jax.models.blocks import Gather, as_they_are, whole
from imagen_jax.models.layers import linear
from imagen_jax.models.transformer import Block, PatchEmbedding, layer_norm, run_transformer
from imagen_jax.ops.attention import LogitBias

_EPSILON = 1e-5
_LOG_SCALE = 2.6592
"""log(1 / 0.07), at which training starts."""


class TextStates(NamedTuple):
    """What the text tower makes of texts, float32.

    Attributes:
        last: after the last block and its norm.
        penultimate: of the block before the last, without a norm (the paper, appendix D.1).
        pooled: `last` at the end of each text.
    """

    last: TextEmbeddings
    penultimate: TextEmbeddings
    pooled: Float[Array, "batch text_width"]


class CLIPText(nnx.Module):
    """The text tower; all of its state is `nnx.Param`."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs) -> None:
        normal = jax.random.normal
        self.config = config
        self.token_embedding = nnx.Param(
            0.02 * normal(rngs.params(), (config.vocab_size, config.width))
        )
        self.positions = nnx.Param(0.01 * normal(rngs.params(), (config.max_length, config.width)))
        self.blocks = nnx.List(
            [Block(config, epsilon=_EPSILON, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm = layer_norm(config.width, _EPSILON, rngs)

    def __call__(
        self, token_ids: TokenIds, mask: TextMask, *, gather: Gather = as_they_are
    ) -> TextStates:
        """States of each token.

        Args:
            token_ids: [batch, length], at most `max_length` long; each in [0, vocab_size), and in
                each row one `end_id`.
            mask: [batch, length], True up to and with the first `end_id`. What comes out at other
                places means nothing.
            gather: brings a block's sharded parameters together where the block runs.
        """
        length = token_ids.shape[1]
        embedding, positions = gather((self.token_embedding[...], self.positions[...]))
        x = embedding[token_ids].astype(jnp.float32) + positions[:length].astype(jnp.float32)
        states = run_transformer(self.blocks, x, _causal(length), mask, self.config, gather)
        last = self.norm(states[-1])
        end = jnp.argmax(token_ids == self.config.end_id, axis=1)
        pooled = jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0]
        return TextStates(last, states[-2], pooled)


def _causal(length: int) -> LogitBias:
    """Keeps each query from the keys after it."""
    return jnp.where(jnp.tri(length, dtype=bool), 0.0, -jnp.inf)[None]


class CLIPVision(nnx.Module):
    """The vision tower; all of its state is `nnx.Param`."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs) -> None:
        normal, width = jax.random.normal, config.width
        self.config = config
        self.patches = PatchEmbedding(config, bias=False, rngs=rngs)
        self.class_token = nnx.Param(normal(rngs.params(), (width,)) * width**-0.5)
        self.positions = nnx.Param(0.02 * normal(rngs.params(), (config.grid**2 + 1, width)))
        self.norm_in = layer_norm(width, _EPSILON, rngs)
        self.blocks = nnx.List(
            [Block(config, epsilon=_EPSILON, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm = layer_norm(width, _EPSILON, rngs)

    def __call__(
        self, pictures: Images, *, gather: Gather = as_they_are
    ) -> Float[Array, "batch vision_width"]:
        """The class token's last state after its norm, float32.

        Args:
            pictures: of `side` pixels, less CLIP's mean and over its deviation.
            gather: as the text tower's.
        """
        x = whole(self.patches, gather)(pictures)
        token = jnp.broadcast_to(self.class_token[...], (len(x), 1, x.shape[2]))
        x = jnp.concatenate([token.astype(jnp.float32), x], axis=1)
        x = self.norm_in(x + gather(self.positions[...]).astype(jnp.float32))
        mask = jnp.ones(x.shape[:2], bool)
        states = run_transformer(self.blocks, x, None, mask, self.config, gather)
        return self.norm(states[-1][:, 0])


class CLIP(nnx.Module):
    """Both towers, and the projections of each into what they have in common."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs) -> None:
        projection = {"bias": False, "dtype": "float32", "rngs": rngs}
        self.config = config
        self.text = CLIPText(config.text, rngs=rngs)
        self.vision = CLIPVision(config.vision, rngs=rngs)
        self.text_projection = linear(config.text.width, config.embedding, **projection)
        self.vision_projection = linear(config.vision.width, config.embedding, **projection)
        self.log_scale = nnx.Param(jnp.asarray(_LOG_SCALE))

    def embed_texts(
        self, token_ids: TokenIds, mask: TextMask, *, gather: Gather = as_they_are
    ) -> Embedding:
        """Embeddings of texts, not yet of length 1; arguments as `CLIPText`."""
        pooled = self.text(token_ids, mask, gather=gather).pooled
        return whole(self.text_projection, gather)(pooled)

    def embed_pictures(self, pictures: Images, *, gather: Gather = as_they_are) -> Embedding:
        """Embeddings of pictures, not yet of length 1; arguments as `CLIPVision`."""
        return whole(self.vision_projection, gather)(self.vision(pictures, gather=gather))
