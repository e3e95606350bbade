"""Super-resolution 256->1024 of the shipped cascade; reads the text encoder of emoji_base_64.

    python train.py emoji_sr_1024 --workdir runs/emoji_sr_1024 \\
        --text_encoder.source runs/emoji_base_64

Beyond the paper, because two CPU cores have to train it: a 4x4 space-to-depth stem, x0
prediction, the cosine schedule, 8 groups in the norms (with 32, flat areas forget their colour), a
cosine decay of the rate, and low-resolution pictures with the faults that the stages before leave.
The crops of 256 are the paper's.
"""

from imagen_jax.config import (
    DataConfig,
    DiffusionConfig,
    EfficientUNetConfig,
    OptimizerConfig,
    SamplingConfig,
    StageConfig,
    TrainingConfig,
)

from .emoji_base_64 import TEXT_ENCODER


def get_config() -> StageConfig:
    return StageConfig(
        name="emoji_sr_1024",
        resolution=1024,
        low_resolution=256,
        unet=EfficientUNetConfig(
            channels=(32, 64, 128),
            num_res_blocks=(1, 1, 2),
            strides=(1, 2, 2),
            self_attention=(False, False, False),
            text_attention=(False, False, True),
            num_heads=4,
            patch_size=4,
            norm_groups=8,
        ),
        text_encoder=TEXT_ENCODER,
        diffusion=DiffusionConfig(prediction="x0", max_aug_level=0.5),
        data=DataConfig(
            mixture=("0.5*captioned_emoji/core_1024", "0.5*captioned_emoji/varied_1024"),
            crop=256,
            low_res_blur=1.5,
            low_res_blotches=4.0,
        ),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=6e-4, warmup_steps=200, decay_steps=5_800, ema_decay=0.999
        ),
        training=TrainingConfig(
            batch_size=8, num_steps=6_000, checkpoint_every=500, sample_every=1_000
        ),
        sampling=SamplingConfig(
            sampler="dpm++", num_steps=2, guidance_scale=1.0, thresholding="static", aug_level=0.05
        ),
    )
