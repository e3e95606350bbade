"""The 300M base with T5-xl, for the paper's ablation of text encoders (appendix D.1).

    python train.py base_64_300m_t5_xl --workdir DIR --data.source NAME

base_64_300m is the same with T5-XXL. Nobody has run this config.
"""

from imagen_jax.config import StageConfig

from . import base_64


def get_config() -> StageConfig:
    return base_64.ablation("base_64_300m_t5_xl", embed_dim=144, encoder="xl")
