"""The base at about 1B: 320 channels, for the paper's ablations of size (appendix D.1).

    python train.py base_64_1b --workdir DIR --data.source NAME

The paper names the sizes and not the widths: this one comes nearest with T5-XXL text. Its runs
took 400K steps. Nobody has run this config.
"""

import dataclasses

from configs import base_64
from imagen_jax.config import StageConfig


def get_config() -> StageConfig:
    config = base_64.get_config()
    return dataclasses.replace(
        config,
        name="base_64_1b",
        unet=dataclasses.replace(config.unet, embed_dim=320),
        training=dataclasses.replace(config.training, num_steps=400_000),
    )
