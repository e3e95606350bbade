"""The base of emoji_study_32 with the text tower of a small CLIP, for the study of text encoders.

    python tools/train_clip.py out/studies/clip
    python train.py emoji_study_32_clip --workdir runs/study_clip

The second command reads the tower that the first one has trained, at its last layer but one, as in
the paper's appendix D.1, and leaves it as it is.
"""

import dataclasses

from imagen_jax.config import StageConfig, TextEncoderConfig
from imagen_jax.config.encoders import CLIPTextConfig

from . import emoji_study_32

DIRECTORY = "out/studies/clip"


def get_config() -> StageConfig:
    config = emoji_study_32.get_config()
    t5 = config.text_encoder.t5
    tower = CLIPTextConfig(
        width=t5.d_model,
        num_layers=t5.num_layers + 1,  # The last one is not read.
        num_heads=t5.num_heads,
        hidden=t5.d_ff,
        vocab_size=t5.vocab_size,
        max_length=24,
        end_id=1,
    )
    return dataclasses.replace(
        config,
        name="emoji_study_32_clip",
        text_encoder=TextEncoderConfig(
            clip=tower, tokenizer=DIRECTORY, source=DIRECTORY, max_length=tower.max_length
        ),
    )
