"""An adapter of the base of the shipped cascade.

    python train.py dreambooth/emoji --workdir runs/zibo --data.source folder:zibo
    python sample.py "a zibo star" --base runs/zibo --sr256 shipped --sr1024 shipped

The base is small, so more than its attention is adapted, at a higher rank and rate than a large one
needs.
"""

import dataclasses

from imagen_jax.config import StageConfig
from imagen_jax.pipeline.shipped import shipped_config, shipped_stage

from . import dreambooth


def get_config() -> StageConfig:
    base = shipped_stage("base")
    config = dreambooth(shipped_config("base"), str(base), rank=8, learning_rate=1e-3, steps=600)
    return dataclasses.replace(
        config,
        text_encoder=dataclasses.replace(config.text_encoder, source=str(base)),
        adapter=dataclasses.replace(config.adapter, targets=("unet.*.kernel",)),
    )
