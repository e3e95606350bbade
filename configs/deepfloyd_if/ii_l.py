"""DeepFloyd IF-II-L, without weights."""

from imagen_jax.config import StageConfig

from . import stage_2


def get_config() -> StageConfig:
    return stage_2(width=160)
