"""sr_1024, read as attention after every 1024-channel residual block.

    python train.py sr_1024_attention_per_block --workdir DIR --data.source NAME

docs/parameters.md has its size beside the paper's. Nobody has run this config.
"""

from imagen_jax.config import StageConfig

from . import sr_256, sr_1024


def get_config() -> StageConfig:
    return sr_256.attention_per_block(sr_1024.get_config())
