"""The 300M base with CLIP's text tower, ViT-L/14's, for the paper's study of text encoders.

    python train.py base_64_300m_clip_l14 --workdir DIR --data.source NAME

base_64_300m is the same with T5-XXL. The embeddings are those of the tower's last block but one
(appendix D.1). Nobody has run this config.
"""

from imagen_jax.config import StageConfig

from . import base_64


def get_config() -> StageConfig:
    return base_64.ablation("base_64_300m_clip_l14", embed_dim=144, text=base_64.clip_encoder())
