"""The smallest unconditional stage: emoji, and nothing said of them.

    python train.py tiny_unconditional_64 --workdir runs/unconditional
    python sample.py --base runs/unconditional --num-images 4

It has no text encoder. As small as tiny_64: what it paints are blobs at best. Nobody has trained it
to the end.
"""

import dataclasses

from imagen_jax.config import ConditionsConfig, StageConfig

from . import tiny_class_64


def get_config() -> StageConfig:
    return dataclasses.replace(
        tiny_class_64.get_config(),
        name="tiny_unconditional_64",
        conditions=ConditionsConfig(text=False),
    )
