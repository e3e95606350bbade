"""DeepFloyd IF-II-L, without weights."""

from configs.deepfloyd_if import stage_2
from imagen_jax.config import StageConfig


def get_config() -> StageConfig:
    return stage_2(width=160)
