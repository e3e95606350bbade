"""The base of the shipped cascade, taught to follow maps of colours and outlines.

    python tools/emoji_maps.py make drawings
    BASE=imagen_jax/pretrained/base.safetensors
    python train.py emoji_maps_64 --workdir runs/maps --init-from $BASE
    python sample.py "a red apple" --base runs/maps --labels map.png --sketch lines.png

The tool makes the pictures, maps and outlines from the emoji's vectors. docs/maps.md shows what
came of it.
"""

import dataclasses

from imagen_jax.config import ConditionsConfig, DataConfig, OptimizerConfig, StageConfig
from imagen_jax.pipeline.shipped import shipped_config


def get_config() -> StageConfig:
    base = shipped_config("base")
    return dataclasses.replace(
        base,
        name="emoji_maps_64",
        conditions=ConditionsConfig(
            pictures=("labels:classes=11", "sketch:1"), picture_dropout=0.3
        ),
        data=DataConfig(source="folder:drawings/train", eval_source="folder:drawings/test"),
        optimizer=OptimizerConfig(
            name="adam",
            learning_rate=3e-4,
            warmup_steps=20,
            ema_decay=0.99,
            freeze=("text_encoder.*",),
        ),
        training=dataclasses.replace(
            base.training,
            batch_size=16,
            num_steps=3000,
            log_every=20,
            checkpoint_every=1000,
            sample_every=1000,
            sample_prompts=(),
        ),
    )
