"""Sizes of CLIP and DINOv2, the networks that pictures are measured by."""

import dataclasses

from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import Dtype, GeluKind, Remat
from imagen_jax.config.rules import require, require_at_most, require_choice, require_positive

_MOST_BLOCKS = 256
_MOST_TOKENS = 2**14
_MOST_PIECES = 2**21
_WIDEST = 2**16


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(Checked):
    """What all of these networks have: blocks of attention and two dense layers."""

    width: int
    num_layers: int
    num_heads: int
    hidden: int
    """Width between the two dense layers."""
    activation: GeluKind = "quick_gelu"
    remat: Remat = "none"
    """As a U-Net's; other than `none` also runs the layers as one scan, which compiles sooner."""
    dtype: Dtype = "float32"
    """Of the computation; softmax, norms and what is added to are float32 always."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, activation=GeluKind, remat=Remat, dtype=Dtype)
        require_positive(self, "width", "num_layers", "num_heads", "hidden")
        require_at_most(self, _MOST_BLOCKS, num_layers=self.num_layers)
        require_at_most(self, _WIDEST, width=self.width, hidden=self.hidden)
        require(
            self.width % self.num_heads == 0,
            f"{type(self).__name__}.width is {self.width}; it must be a multiple of num_heads, "
            f"{self.num_heads}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(TransformerConfig):
    """Sizes of CLIP's text tower; the defaults are those of ViT-L/14."""

    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    hidden: int = 3072
    vocab_size: int = 49408
    max_length: int = 77
    """Most tokens of a text, the two at its ends among them."""
    end_id: int = 49407
    """The token at whose first place a text's embedding is taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "vocab_size", "max_length")
        require_at_most(self, _MOST_PIECES, vocab_size=self.vocab_size)
        require_at_most(self, _MOST_TOKENS, max_length=self.max_length)
        require(
            0 <= self.end_id < self.vocab_size,
            f"CLIPTextConfig.end_id is {self.end_id}; it must be below vocab_size, "
            f"{self.vocab_size}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchesConfig(TransformerConfig):
    """A Transformer that reads square pictures cut into square patches."""

    side: int
    """Pixels of a side of the pictures that the position embeddings are made for."""
    patch: int
    """Pixels of a side of a patch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "side", "patch")
        require(
            self.side >= self.patch,
            f"{type(self).__name__}.side is {self.side}; it must be at least a patch's, "
            f"{self.patch}.",
        )
        require_at_most(self, _MOST_TOKENS, patches=self.grid**2)

    @property
    def grid(self) -> int:
        """Patches of a side; pixels beyond the last whole patch are not read."""
        return self.side // self.patch


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(PatchesConfig):
    """Sizes of CLIP's vision tower; the defaults are those of ViT-L/14."""

    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    hidden: int = 4096
    side: int = 224
    patch: int = 14


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig(Checked):
    """Sizes of CLIP (Radford et al. 2021); the defaults are those of ViT-L/14."""

    text: CLIPTextConfig = CLIPTextConfig()
    vision: CLIPVisionConfig = CLIPVisionConfig()
    embedding: int = 768
    """Width of what the embeddings of texts and of pictures have in common."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "embedding")
        require_at_most(self, _WIDEST, embedding=self.embedding)


_BASE_TEXT = CLIPTextConfig(width=512, num_heads=8, hidden=2048)
_BASE_VISION = CLIPVisionConfig(width=768, num_layers=12, num_heads=12, hidden=3072, patch=16)
CLIP_PRESETS: dict[str, CLIPConfig] = {
    "b32": CLIPConfig(
        text=_BASE_TEXT, vision=dataclasses.replace(_BASE_VISION, patch=32), embedding=512
    ),
    "b16": CLIPConfig(text=_BASE_TEXT, vision=_BASE_VISION, embedding=512),
    "l14": CLIPConfig(),
    "l14_336": CLIPConfig(vision=CLIPVisionConfig(side=336)),
}
"""The published sizes; the paper's study of text encoders has `l14`, and CMMD is of `l14_336`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOv2Config(PatchesConfig):
    """Sizes of DINOv2 (Oquab et al. 2023); the defaults are those of ViT-L/14."""

    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    hidden: int = 4096
    activation: GeluKind = "gelu"
    side: int = 518
    patch: int = 14
