"""The smallest class-conditional stage: emoji of three styles, told apart by number and no words.

    python train.py tiny_class_64 --workdir runs/classes
    python sample.py --classes 0,1,2 --base runs/classes

Class 0 is noto, 1 twemoji and 2 fluent. It has no text encoder. As small as tiny_64: what it paints
are blobs at best. Nobody has trained it to the end.
"""

import dataclasses

from imagen_jax.config import ConditionsConfig, StageConfig, TextEncoderConfig

from . import tiny_64


def get_config() -> StageConfig:
    tiny = tiny_64.get_config()
    return dataclasses.replace(
        tiny,
        name="tiny_class_64",
        conditions=ConditionsConfig(text=False, classes=3),
        text_encoder=TextEncoderConfig(),
        data=dataclasses.replace(tiny.data, label_feature="style"),
        training=dataclasses.replace(tiny.training, sample_prompts=()),
    )
