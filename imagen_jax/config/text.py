"""Where a stage's text embeddings come from, as a config that checks itself."""

import dataclasses

from imagen_jax.config.checked import Checked
from imagen_jax.config.choices import NullTextKind
from imagen_jax.config.network import MOST_TOKENS, T5Config
from imagen_jax.config.rules import require, require_at_most, require_choice, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(Checked):
    """Where a stage's text embeddings come from."""

    t5: T5Config = T5Config()
    tokenizer: str = "captions"
    """`captions` (the small vocabulary that ships with the package) or a directory that
    holds a Hugging Face tokenizer."""
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
    holds one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "max_length")
        require_at_most(self, MOST_TOKENS, max_length=self.max_length)
        require_choice(self, null=NullTextKind)
        require(
            not (self.train and self.source),
            f"TextEncoderConfig.source is {self.source!r} and train is on; an encoder is "
            "either trained here or read from a source.",
        )
