"""Where a stage's text embeddings come from, as a config that checks itself."""

import dataclasses

from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import ClipLayer, NullTextKind
from imagen_jax.config.encoders import CLIPTextConfig
from imagen_jax.config.network import MOST_TOKENS, T5Config
from imagen_jax.config.rules import require, require_at_most, require_choice, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(Checked):
    """Where a stage's text embeddings come from."""

    t5: T5Config = T5Config()
    clip: CLIPTextConfig | None = None
    """Sizes of CLIP's text tower, which then reads captions in the place of T5."""
    clip_layer: ClipLayer = "penultimate"
    """Of CLIP; the paper's study takes the penultimate one (appendix D.1)."""
    tokenizer: str = "captions"
    """`captions` (the small vocabulary that ships with the package) or a directory that
    holds a Hugging Face tokenizer, for CLIP one of its own."""
    max_length: int = 256
    """Tokens per caption; the paper does not state it."""
    lowercase: bool = False
    """Captions are read in lower case."""
    null: NullTextKind = "zeros"
    """The text of the unconditional prediction: zeroed embeddings (paper, section 4.1), or those
    of an empty caption."""
    train: bool = False
    """Train the encoder jointly with the U-Net. The paper's encoder is frozen."""
    source: str = ""
    """Weights of a frozen encoder: a Hugging Face T5 directory or the file of weights in one, a
    file that `convert t5` wrote, or a stage (training directory or exported file) that trained or
    holds one; of CLIP a Hugging Face directory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "max_length")
        require_at_most(self, MOST_TOKENS, max_length=self.max_length)
        require_choice(self, null=NullTextKind, clip_layer=ClipLayer)
        require(
            not (self.train and self.source),
            f"TextEncoderConfig.source is {self.source!r} and train is on; an encoder is "
            "either trained here or read from a source.",
        )
        if self.clip is not None:
            self._check_clip(self.clip)

    def _check_clip(self, clip: CLIPTextConfig) -> None:
        require(not self.train, "TextEncoderConfig.train is on; CLIP is not trained here.")
        require(
            self.max_length <= clip.max_length,
            f"TextEncoderConfig.max_length is {self.max_length}; CLIP's positions end at "
            f"{clip.max_length}.",
        )

    @property
    def network(self) -> T5Config | CLIPTextConfig:
        """Sizes of the network that reads captions."""
        return self.t5 if self.clip is None else self.clip

    @property
    def ends(self) -> int:
        """Tokens that each text has beside its own: T5 has one after it, CLIP one before it too."""
        return 1 if self.clip is None else 2

    @property
    def width(self) -> int:
        """Of a token's embedding."""
        return self.t5.d_model if self.clip is None else self.clip.width
