"""DreamBooth by low-rank adapters: a stage learns one thing from a few pictures of it.

    python train.py dreambooth/emoji --workdir runs/zibo --data.source folder:zibo

Each picture lies beside a .txt that says what it shows by a rare word and what kind of thing it is,
such as "a zibo star". DreamBooth (Ruiz et al. 2022) was made on Imagen; ranks, rates and steps for
DeepFloyd IF are those of diffusers' recipes. docs/adapters.md has the whole way.
"""

import dataclasses

from imagen_jax.config import AdapterConfig, DataConfig, OptimizerConfig, StageConfig


def dreambooth(
    config: StageConfig, base: str, *, rank: int, learning_rate: float, steps: int
) -> StageConfig:
    """The stage's config for a run that trains an adapter of `base` on a user's few pictures."""
    return dataclasses.replace(
        config,
        name=f"{config.name}_dreambooth",
        text_encoder=dataclasses.replace(config.text_encoder, train=False),
        data=DataConfig(source="folder:pictures"),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=learning_rate, warmup_steps=0, ema_decay=0.99
        ),
        training=dataclasses.replace(
            config.training,
            batch_size=4,
            num_steps=steps,
            log_every=20,
            checkpoint_every=200,
            sample_every=200,
            sample_prompts=(),
            eval_every=0,
        ),
        adapter=AdapterConfig(rank=rank, base=base),
    )
