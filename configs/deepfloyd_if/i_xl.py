"""DeepFloyd IF-I-XL, without weights."""

from imagen_jax.config import StageConfig

from . import stage_1


def get_config() -> StageConfig:
    return stage_1(width=704)
