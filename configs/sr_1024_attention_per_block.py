"""sr_1024, read as attention after every 1024-channel residual block.

    python train.py sr_1024_attention_per_block --workdir DIR --data.source NAME

docs/parameters.md has its size beside the paper's. Nobody has run this config.
"""

import dataclasses

from configs import sr_1024
from imagen_jax.config import StageConfig


def get_config() -> StageConfig:
    config = sr_1024.get_config()
    return dataclasses.replace(
        config,
        name="sr_1024_attention_per_block",
        unet=dataclasses.replace(config.unet, attention_per_res_block=True),
    )
