"""A base of 32 pixels for the studies of sizes and of text encoders, on the emoji.

    python train.py emoji_study_32 --workdir runs/study
    python tools/studies.py sizes --out out/studies

It is the shipped base's network at half of the side, for minutes on two CPU cores, with 8 groups
in the norms, which leave narrow ones groups of several channels. The second command trains it at
three widths with three sizes of its T5.
"""

import dataclasses

from imagen_jax.config import OptimizerConfig, SamplingConfig, StageConfig

from . import emoji_base_64


def get_config() -> StageConfig:
    base = emoji_base_64.get_config()
    return dataclasses.replace(
        base,
        name="emoji_study_32",
        resolution=32,
        unet=dataclasses.replace(base.unet, attention_resolutions=(4, 2), norm_groups=8),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=6e-4, warmup_steps=100, decay_steps=1_200, ema_decay=0.99
        ),
        training=dataclasses.replace(
            base.training,
            batch_size=64,
            num_steps=1_300,
            log_every=50,
            checkpoint_every=650,
            keep_checkpoints=1,
            sample_every=0,
        ),
        sampling=SamplingConfig(
            sampler="dpm++", num_steps=30, guidance_scale=3.0, thresholding="static"
        ),
    )
