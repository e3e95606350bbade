"""sr_256 with a fifth block of 1024 channels, as NeMo's Imagen read the listing.

    python train.py sr_256_fifth_block --workdir DIR --data.source NAME

The fifth block keeps the side, and the last two attend. docs/parameters.md has its size beside
the paper's. Nobody has run this config.
"""

import dataclasses

from imagen_jax.config import StageConfig

from . import sr_256


def get_config() -> StageConfig:
    config = sr_256.get_config()
    unet = dataclasses.replace(
        config.unet,
        channels=(128, 256, 512, 1024, 1024),
        num_res_blocks=(2, 4, 8, 8, 8),
        strides=(2, 2, 2, 2, 1),
        self_attention=(False, False, False, True, True),
        text_attention=(False, False, False, True, True),
        remat=(*config.unet.remat, "selective"),
    )
    return dataclasses.replace(config, name="sr_256_fifth_block", unet=unet)
