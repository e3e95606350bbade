"""What the base U-Net and the Efficient U-Net share: conditioning, stem and head."""

from collections.abc import Iterable

import jax.numpy as jnp
from flax import nnx

from imagen_jax.arrays import (
    AugLevel,
    Embedding,
    Features,
    Images,
    LogSNR,
    TextEmbeddings,
    TextMask,
)
from imagen_jax.models.attention import AttentionPooling, ImageAttention, TextState
from imagen_jax.models.blocks import Gather, as_they_are, run_blocks, whole
from imagen_jax.models.layers import (
    Conditioning,
    GroupNorm,
    conv,
    depth_to_space,
    space_to_depth,
    with_low_res,
)


class ConditionalUNet(nnx.Module):
    """Predicts eps, x0 or v from z_t, its log-SNR, a text and maybe a low-resolution picture.

    Subclasses add the blocks: `trunk` runs them and `attentions` lists theirs.

    Args:
        width: channels after the stem.
        head_width: channels before the head.
        text_width: width of the text embeddings.
        pooling_head_dim: width of the heads of the attention pooling.
        patch_size: side of the space-to-depth patches.
        norm_groups: of the group normalisations.
        low_res: whether a low-resolution picture and its aug_level are inputs.
    """

    def __init__(
        self, *, width: int, head_width: int, text_width: int, pooling_head_dim: int,
        patch_size: int, norm_groups: int, low_res: bool, dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        kwargs = {"dtype": dtype, "rngs": rngs}
        embedding, patch_channels = 4 * width, 3 * patch_size**2
        self.patch_size = patch_size
        self.conditioning = Conditioning(width, embedding, augmented=low_res, **kwargs)
        self.pooling = AttentionPooling(text_width, embedding, head_dim=pooling_head_dim, **kwargs)
        self.conv_in = conv((2 if low_res else 1) * patch_channels, width, **kwargs)
        self.norm_out = GroupNorm(head_width, groups=norm_groups, rngs=rngs)
        self.conv_out = conv(head_width, patch_channels, zero=True, **kwargs)

    def attentions(self) -> Iterable[ImageAttention]:
        """All attentions over the text, in the order in which they run."""
        raise NotImplementedError

    def trunk(self, x: Features, embedding: Embedding, text: TextState, gather: Gather) -> Features:
        """Everything between stem and head."""
        raise NotImplementedError

    def encode_text(
        self, text: TextEmbeddings, mask: TextMask, *, gather: Gather = as_they_are
    ) -> TextState:
        """The text's part of every layer, once per prompt rather than once per step."""

        def run(layer, call):
            # For the backward pass weights are gathered again, which is cheaper than keeping
            # those of all attentions.
            return run_blocks([layer], text, [None], call, remat="full", gather=gather)[0]

        keys_values = tuple(
            run(layer, lambda layer, text, _: layer.text_keys_values(text))
            for layer in self.attentions()
        )
        pooled = run(self.pooling, lambda pooling, text, _: pooling(text, mask))
        return TextState(pooled=pooled, keys_values=keys_values, mask=mask)

    def __call__(
        self, z: Images, log_snr: LogSNR, text: TextState, low_res: Features | None = None,
        aug_level: AugLevel | None = None, *, gather: Gather = as_they_are,
    ) -> Images:  # fmt: skip
        """z_t -> prediction, both (batch, height, width, 3); the result is float32.

        Args:
            z: height and width are multiples of `config.size_divisor`.
            low_res: of any smaller size, already noised to `aug_level`.
            gather: brings a block's sharded parameters together where the block runs.
        """
        embedding = whole(self.conditioning, gather)(log_snr, text.pooled, aug_level)
        x = with_low_res(z, low_res)
        x = whole(self.conv_in, gather)(space_to_depth(x, self.patch_size))
        x = self.trunk(x, embedding, text, gather)
        x = whole(self.conv_out, gather)(nnx.silu(self.norm_out(x)))
        return depth_to_space(x, self.patch_size).astype(jnp.float32)
