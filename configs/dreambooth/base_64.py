"""An adapter of the paper's base. Nobody has run it.

python train.py dreambooth/base_64 --adapter.base STAGE --workdir DIR --data.source folder:DIR
"""

from imagen_jax.config import StageConfig

from .. import base_64
from . import dreambooth


def get_config() -> StageConfig:
    return dreambooth(base_64.get_config(), "runs/base_64", rank=4, learning_rate=1e-5, steps=1_000)
