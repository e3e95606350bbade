"""The base at about 1B: 320 channels, for the paper's ablations of size (appendix D.3).

    python train.py base_64_1b --workdir DIR --data.source NAME

The paper names the sizes and not the widths: this one comes nearest with T5-XXL text. Its runs
took 400K steps. Nobody has run this config.
"""

from imagen_jax.config import StageConfig

from . import base_64


def get_config() -> StageConfig:
    return base_64.ablation("base_64_1b", embed_dim=320)
