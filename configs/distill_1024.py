"""A student of any stage from 256 to 1024 pixels, which paints in a few steps.

    python train.py distill_1024 --teacher STAGE --student-steps any,16,8,4 --workdir DIR

As distill_64, which says more. A teacher that is not guided (guidance scale 1) takes no `any`.
"""

from imagen_jax.config import StageConfig

from . import sr_1024
from .distill_64 import recipe


def get_config() -> StageConfig:
    return recipe(sr_1024.get_config(), (1.0, 18.0))
