"""The 300M base with T5-large, for the paper's ablation of text encoders (appendix D.1).

    python train.py base_64_300m_t5_large --workdir DIR --data.source NAME

base_64_300m is the same with T5-XXL. Nobody has run this config.
"""

import dataclasses

from configs import base_64, base_64_300m
from imagen_jax.config import StageConfig


def get_config() -> StageConfig:
    return dataclasses.replace(
        base_64_300m.get_config(),
        name="base_64_300m_t5_large",
        text_encoder=base_64.text_encoder("large"),
    )
