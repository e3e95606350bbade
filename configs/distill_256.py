"""A student of any stage from 64 to 256 pixels, which paints in a few steps.

    python train.py distill_256 --teacher STAGE --student-steps any,16,8,4 --workdir DIR

As distill_64, which says more. A teacher that is not guided (guidance scale 1) takes no `any`.
"""

from imagen_jax.config import StageConfig

from . import sr_256
from .distill_64 import recipe


def get_config() -> StageConfig:
    return recipe(sr_256.get_config(), (1.0, 18.0))
