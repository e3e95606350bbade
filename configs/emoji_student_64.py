"""The student of the shipped base, which `sample.py` paints prompts with: three steps for its six.

    python train.py emoji_student_64 --teacher imagen_jax/pretrained/base.safetensors \
        --student-steps 3 --workdir runs/emoji_student_64

The shipped one was trained once more, by --init-from of what this gives, with 2,500 steps. It
learns guidance of 1 to 5 and two steps in one at once, for a teacher that is guided at times
from 0.2 to 0.8 alone. docs/distillation.md has the way, and what came of it.
"""

import dataclasses

from imagen_jax.config import DistillationConfig, OptimizerConfig, SamplingConfig, StageConfig

from . import distill_64, emoji_base_64


def get_config() -> StageConfig:
    base = emoji_base_64.get_config()
    config = distill_64.recipe(base, (1.0, 5.0))
    return dataclasses.replace(
        config,
        name="emoji_student_64",
        text_encoder=dataclasses.replace(base.text_encoder, train=False),
        diffusion=base.diffusion,
        optimizer=OptimizerConfig(
            name="adam", learning_rate=3e-4, warmup_steps=50, decay_steps=1_450, ema_decay=0.0
        ),
        training=dataclasses.replace(
            base.training, num_steps=1_500, checkpoint_every=5_000, sample_every=0
        ),
        sampling=SamplingConfig(
            sampler="ddim",
            num_steps=3,
            timesteps=base.sampling.timesteps[::2],
            guidance_scale=3.0,
            thresholding="none",
        ),
        distillation=DistillationConfig(steps=3),
    )
