"""An adapter of stage I of DeepFloyd IF, as diffusers trains one. Nobody has run it.

python train.py dreambooth/if_i_xl --adapter.base IF-I-XL.safetensors --workdir DIR
"""

from imagen_jax.config import StageConfig

from ..deepfloyd_if import i_xl
from . import dreambooth


def get_config() -> StageConfig:
    return dreambooth(
        i_xl.get_config(), "IF-I-XL.safetensors", rank=4, learning_rate=5e-6, steps=1_200
    )
