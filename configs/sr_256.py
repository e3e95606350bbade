"""The paper's 64->256 super-resolution, by the letter of appendix F.2: 600M parameters claimed.

    python train.py sr_256 --workdir DIR --data.source NAME

The listing read literally (attention once, after the last residual block of the 1024-channel
blocks) has fewer than 600M parameters: docs/parameters.md; sr_256_attention_per_block and
sr_256_fifth_block are the other readings. The paper trained it for 2.5M steps of 2048 pictures
on 128 TPU v4 chips. Nobody has run this config; docs/pods.md says what the TPU compiler makes of
it.

The paper's text does not say how aug_level is drawn in training.
"""

import dataclasses

from imagen_jax.config import (
    DataConfig,
    EfficientUNetConfig,
    OptimizerConfig,
    SamplingConfig,
    StageConfig,
)

from .base_64 import SELECTIVE, text_encoder


def get_config() -> StageConfig:
    return StageConfig(
        name="sr_256",
        resolution=256,
        low_resolution=64,
        unet=EfficientUNetConfig(
            channels=(128, 256, 512, 1024),
            num_res_blocks=(2, 4, 8, 8),
            strides=(2, 2, 2, 2),
            self_attention=(False, False, False, True),
            text_attention=(False, False, False, True),
            num_heads=8,
            remat=SELECTIVE,
            dtype="bfloat16",
        ),
        text_encoder=text_encoder(),
        data=DataConfig(source="laion400m/images"),
        optimizer=OptimizerConfig(name="adam"),
        sampling=SamplingConfig(guidance_scale=8.0),
    )


def attention_per_block(config: StageConfig) -> StageConfig:
    """The other reading of the listing: attention after every residual block that could have it."""
    return dataclasses.replace(
        config,
        name=f"{config.name}_attention_per_block",
        unet=dataclasses.replace(config.unet, attention_per_res_block=True),
    )
