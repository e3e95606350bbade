"""DeepFloyd IF-I-M, without weights."""

from imagen_jax.config import StageConfig

from . import stage_1


def get_config() -> StageConfig:
    return stage_1(width=192)
