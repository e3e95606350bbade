"""Base 64x64 of the shipped cascade: captioned emoji, trained with its own small T5.

    python train.py emoji_base_64 --workdir runs/emoji_base_64

Beyond the paper, because two CPU cores have to train it: a 4x4 space-to-depth stem with two
convolutions of whole pixels at the end, x0 prediction, Adam, and a text encoder trained here. It
samples without thresholding; a dynamic one turns the white that the emoji stand on grey.
"""

import dataclasses

from imagen_jax.config import (
    DataConfig,
    DiffusionConfig,
    OptimizerConfig,
    SamplingConfig,
    StageConfig,
    T5Config,
    TextEncoderConfig,
    TrainingConfig,
    UNetConfig,
)

TEXT_ENCODER = TextEncoderConfig(
    t5=T5Config(vocab_size=2048, d_model=192, num_layers=2, num_heads=3, d_kv=64, d_ff=384),
    tokenizer="captions",
    max_length=24,
)


def get_config() -> StageConfig:
    return StageConfig(
        name="emoji_base_64",
        resolution=64,
        unet=UNetConfig(
            embed_dim=32,
            channel_mult=(2, 3, 6),
            num_res_blocks=(1, 2, 2),
            attention_resolutions=(8, 4),
            head_dim=32,
            patch_size=4,
            pixel_channels=16,
        ),
        text_encoder=dataclasses.replace(TEXT_ENCODER, train=True),
        diffusion=DiffusionConfig(prediction="x0"),
        data=DataConfig(mixture=("0.5*captioned_emoji/core_64", "0.5*captioned_emoji/varied_64")),
        optimizer=OptimizerConfig(
            name="adam",
            learning_rate=4e-4,
            warmup_steps=200,
            ema_decay=0.999,
        ),
        training=TrainingConfig(
            batch_size=32,
            num_steps=30_000,
            checkpoint_every=500,
            sample_every=1_000,
            sample_prompts=(
                "a red apple",
                "a cat face",
                "a slice of pizza, noto style",
                "twemoji rocket",
                "a banana",
                "a fluent dog face",
                "a blue apple",
                "a purple car",
                "an airplane",
                "a tiger face, noto style",
                "a hamburger on a yellow background",
                "a basketball",
                "a fish",
                "a carrot, twemoji style",
                "a strawberry",
                "a yellow star",
            ),
        ),
        # By `python -m imagen_jax tune` for 12 evaluations of the network (docs/distillation.md).
        sampling=SamplingConfig(
            sampler="ddim",
            num_steps=6,
            timesteps=(999, 708, 666, 457, 415, 166),
            guidance_scale=3.0,
            guidance_interval=(0.2, 0.8),
            thresholding="none",
        ),
    )
