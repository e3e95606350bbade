"""What a network is told beside z: a text or none, the noise level, a smaller picture."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imagen_jax.arrays import (
    AugLevel,
    Keys,
    LogSNR,
    LowResPixels,
    NoiseLevel,
    NullText,
    TextEmbeddings,
    TextMask,
)
from imagen_jax.config import StageConfig
from imagen_jax.diffusion import chain, process
from imagen_jax.diffusion.pixels import to_unit


def noise_level(config: StageConfig, log_snr: LogSNR) -> NoiseLevel:
    """What the stage's U-Net reads of the noise."""
    return chain.step_of(log_snr) if config.unet.time_input == "step" else log_snr


def low_res_inputs(
    config: StageConfig, low_res: LowResPixels, level: AugLevel, keys: Keys, size: tuple[int, int]
) -> dict[str, jax.Array]:
    """What a super-resolution U-Net reads beside z: the picture noised to `level`, and the level.

    Args:
        size: (height, width) of z.
    """
    images = to_unit(low_res)
    if config.diffusion.augmented == "enlarged":
        images = process.enlarge(images, size)
    noised = process.augment_low_res(images, level, keys, config.diffusion.schedule)
    reads_steps = config.unet.time_input == "step"
    return {"low_res": noised, "aug_level": chain.step_at(level) if reads_steps else level}


def drop_text(
    text: TextEmbeddings, mask: TextMask, drop: jax.Array, null: NullText | None = None
) -> tuple[TextEmbeddings, TextMask]:
    """The null text where `drop` (batch,) is True: embeddings zeroed (paper, section 4.1).

    Of the null text one (zero) token stays visible, so that the unconditional prediction
    depends neither on the caption's length nor on the padding; the paper is silent here.
    `null`, if given, is taken in its place: the embedded empty caption.
    """
    null_text, null_mask = (0.0, jnp.arange(mask.shape[1])[None] == 0) if null is None else null
    return (
        jnp.where(drop[:, None, None], null_text, text),
        jnp.where(drop[:, None], null_mask, mask),
    )


def with_null_text(
    text: TextEmbeddings, mask: TextMask, null: NullText | None
) -> tuple[Float[Array, "both length text_width"], Bool[Array, "both length"]]:
    """Twice the rows: the texts, then `null` for each, or where that is None zeros."""
    dropped = drop_text(text, mask, jnp.ones(len(text), bool), null)
    return tuple(jnp.concatenate(pair) for pair in zip((text, mask), dropped, strict=True))
