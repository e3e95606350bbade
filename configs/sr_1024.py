"""The paper's 256->1024 super-resolution, by the letter of appendix F.3: 400M parameters claimed.

    python train.py sr_1024 --workdir DIR --data.source NAME

The same blocks as sr_256 without self-attention, so that it trains on 64->256 crops and runs on
whole pictures; the linear schedule. The listing read literally has more than 400M parameters:
docs/parameters.md. The paper trained it for 2.5M steps of 2048 crops on 128 TPU v4 chips. Nobody
has run this config; docs/pods.md says what the TPU compiler makes of it.
"""

import dataclasses

from imagen_jax.config import DiffusionConfig, StageConfig

from . import sr_256


def get_config() -> StageConfig:
    config = sr_256.get_config()
    return dataclasses.replace(
        config,
        name="sr_1024",
        resolution=1024,
        low_resolution=256,
        unet=dataclasses.replace(config.unet, self_attention=(False, False, False, False)),
        diffusion=DiffusionConfig(schedule="linear"),
        data=dataclasses.replace(config.data, crop=256),
    )
