"""DeepFloyd IF's stages as `convert deepfloyd-if` describes them, without weights.

    python sample.py --compile-only --topology v5e:2x4 --base configs/deepfloyd_if/i_xl.py

They can be compiled and counted, and imported weights are fine-tuned by them:

    python train.py deepfloyd_if/i_m --init-from IF-I-M.safetensors --workdir DIR --data.source NAME

To paint, convert the published weights (docs/weights.md). Nobody has run these networks.
"""

import dataclasses

from imagen_jax.config import (
    DiffusionConfig,
    SamplingConfig,
    StageConfig,
    TextEncoderConfig,
    UNetConfig,
    UNetVariant,
)
from imagen_jax.config.network import T5_PRESETS

_UNET = UNetConfig(dtype="bfloat16")
_VARIANT = UNetVariant(
    activation="gelu",
    time_input="step",
    pooling="token",
    text_norm="group",
    mask_padding=False,
    predicts_variance=True,
)
_TEXT_ENCODER = TextEncoderConfig(
    t5=dataclasses.replace(T5_PRESETS["xxl"], dtype="bfloat16"),
    tokenizer="IF-I-XL-v1.0/tokenizer",
    source="IF-I-XL-v1.0/text_encoder",
    max_length=77,
    lowercase=True,
    null="empty",
)
_DIFFUSION = DiffusionConfig(schedule="cosine_chain", augmented="enlarged")
_SAMPLING = SamplingConfig(spacing="leading", percentile=95.0)


def stage_1(width: int) -> StageConfig:
    """Text to 64 pixels; the sizes differ in width alone."""
    return StageConfig(
        name="deepfloyd_if_1",
        resolution=64,
        unet=dataclasses.replace(
            _UNET,
            embed_dim=width,
            variant=dataclasses.replace(_VARIANT, text_projection=4 * width),
        ),
        text_encoder=_TEXT_ENCODER,
        diffusion=_DIFFUSION,
        sampling=dataclasses.replace(
            _SAMPLING, num_steps=100, guidance_scale=7.0, max_threshold=1.5
        ),
    )


def stage_2(width: int) -> StageConfig:
    """64 to 256 pixels."""
    unet = dataclasses.replace(
        _UNET,
        embed_dim=width,
        channel_mult=(1, 2, 4, 6, 8),
        num_res_blocks=(2, 2, 3, 5, 5),
        attention_resolutions=(32, 16),
        variant=dataclasses.replace(
            _VARIANT,
            embedding_activation="once",
            embedding_dim=8 * width,
            residual_scale=0.7071,
            text_projection=8 * width,
        ),
    )
    return StageConfig(
        name="deepfloyd_if_2",
        resolution=256,
        low_resolution=64,
        unet=unet,
        text_encoder=_TEXT_ENCODER,
        diffusion=_DIFFUSION,
        sampling=dataclasses.replace(
            _SAMPLING, num_steps=50, guidance_scale=4.0, max_threshold=1.0, aug_level=0.25
        ),
    )
