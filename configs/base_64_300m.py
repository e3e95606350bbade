"""The base at about 300M: 144 channels, for the paper's ablations of size (appendix D.3).

    python train.py base_64_300m --workdir DIR --data.source NAME

The paper names the sizes and not the widths: this one comes nearest with T5-XXL text. Its runs
took 400K steps. Nobody has run this config.
"""

from imagen_jax.config import StageConfig

from . import base_64


def get_config() -> StageConfig:
    return base_64.ablation("base_64_300m", embed_dim=144)
