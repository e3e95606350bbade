"""A student of any 64-pixel stage, which paints in a few steps.

    python train.py distill_64 --teacher STAGE --student-steps any,32,16,8,4 --workdir DIR

Networks and data are the teacher's. First a student learns what guidance does, so that it needs one
evaluation a step (Meng et al. 2022), and then others learn to take half as many steps, again and
again (Salimans & Ho 2022: as theirs are, 50,000 updates a halving from a rate of 1e-4, without an
average of the weights; theirs falls linearly, this one by a cosine). Each is a run in DIR and a
file, such as DIR/8.safetensors. Nobody has run it at the paper's size. docs/distillation.md has the
whole way.
"""

import dataclasses

from imagen_jax.config import OptimizerConfig, StageConfig

from . import base_64


def recipe(config: StageConfig, guidance: tuple[float, float]) -> StageConfig:
    """How a student of such a stage is trained.

    Args:
        guidance: the range of weights that it learns.
    """
    scale = min(max(config.sampling.guidance_scale, guidance[0]), guidance[1])
    return dataclasses.replace(
        config,
        name=f"distill_{config.resolution}",
        conditions=dataclasses.replace(config.conditions, guidance=guidance),
        diffusion=dataclasses.replace(config.diffusion, prediction="v"),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=1e-4, warmup_steps=0, decay_steps=50_000, ema_decay=0.0
        ),
        training=dataclasses.replace(config.training, num_steps=50_000),
        sampling=dataclasses.replace(config.sampling, guidance_scale=scale),
    )


def get_config() -> StageConfig:
    return recipe(base_64.get_config(), (1.0, 10.0))
