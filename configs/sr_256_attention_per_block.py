"""sr_256, read as attention after every 1024-channel residual block.

    python train.py sr_256_attention_per_block --workdir DIR --data.source NAME

docs/parameters.md has its size beside the paper's. Nobody has run this config.
"""

from imagen_jax.config import StageConfig

from . import sr_256


def get_config() -> StageConfig:
    return sr_256.attention_per_block(sr_256.get_config())
