"""An adapter of stage II of DeepFloyd IF, as diffusers trains one. Nobody has run it.

python train.py dreambooth/if_ii_l --adapter.base IF-II-L.safetensors --workdir DIR
"""

from imagen_jax.config import StageConfig

from ..deepfloyd_if import ii_l
from . import dreambooth


def get_config() -> StageConfig:
    return dreambooth(
        ii_l.get_config(), "IF-II-L.safetensors", rank=4, learning_rate=1e-6, steps=2_000
    )
