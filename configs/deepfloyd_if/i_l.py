"""DeepFloyd IF-I-L, without weights."""

from configs.deepfloyd_if import stage_1
from imagen_jax.config import StageConfig


def get_config() -> StageConfig:
    return stage_1(width=320)
