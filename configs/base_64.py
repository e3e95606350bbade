"""The paper's 64x64 base: 2B parameters, T5-XXL text (appendix F.1).

    python train.py base_64 --workdir DIR --data.source NAME

The paper trained it for 2.5M steps of 2048 pictures on 256 TPU v4 chips. Nobody has run this
config; docs/pods.md says what the TPU compiler makes of it. The text encoder is read from
weights/t5-v1_1-xxl, a download of google/t5-v1_1-xxl. Half of the paper's data is not public:
name your own.

The paper is silent on text length, clipping, EMA, the number of sampling steps, and guidance
beyond its COCO tables.
"""

import dataclasses

from imagen_jax.config import DataConfig, SamplingConfig, StageConfig, TextEncoderConfig, UNetConfig
from imagen_jax.config.encoders import CLIP_PRESETS
from imagen_jax.config.network import T5_PRESETS

SELECTIVE = ("selective",) * 4


def text_encoder(size: str = "xxl") -> TextEncoderConfig:
    """A frozen T5 v1.1 of a published size, from weights/t5-v1_1-SIZE."""
    directory = f"weights/t5-v1_1-{size}"
    t5 = dataclasses.replace(T5_PRESETS[size], dtype="bfloat16", remat="full")
    return TextEncoderConfig(t5=t5, tokenizer=directory, source=directory, max_length=128)


def clip_encoder(size: str = "l14") -> TextEncoderConfig:
    """CLIP's frozen text tower, the layer before its last, from weights/clip-SIZE."""
    directory = f"weights/clip-{size}"
    text = dataclasses.replace(CLIP_PRESETS[size].text, dtype="bfloat16", remat="full")
    return TextEncoderConfig(
        clip=text, tokenizer=directory, source=directory, max_length=text.max_length
    )


def ablation(
    name: str, embed_dim: int, encoder: str = "xxl", *, text: TextEncoderConfig | None = None
) -> StageConfig:
    """The base of another width, or with a T5 of another size or another text encoder, for 400K
    steps, as appendix D.3 has for sizes."""
    config = get_config()
    return dataclasses.replace(
        config,
        name=name,
        unet=dataclasses.replace(config.unet, embed_dim=embed_dim),
        text_encoder=text or text_encoder(encoder),
        training=dataclasses.replace(config.training, num_steps=400_000),
    )


def get_config() -> StageConfig:
    return StageConfig(
        name="base_64",
        resolution=64,
        unet=UNetConfig(
            embed_dim=512,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=(3, 3, 3, 3),
            attention_resolutions=(32, 16, 8),
            head_dim=64,
            remat=SELECTIVE,
            dtype="bfloat16",
        ),
        text_encoder=text_encoder(),
        data=DataConfig(source="laion400m/images"),
        sampling=SamplingConfig(sampler="ancestral", guidance_scale=7.0, thresholding="dynamic"),
    )
