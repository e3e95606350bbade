"""Learning rate, optimizer and EMA."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from imagen_jax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """Linear warm-up to a constant (appendix F), with a cosine decay to zero if configured."""
    warmup = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    after = (
        optax.constant_schedule(config.learning_rate)
        if config.decay_steps is None
        else optax.cosine_decay_schedule(config.learning_rate, config.decay_steps)
    )
    # Step 0 already learns: without the shift its rate would be zero.
    return optax.join_schedules([lambda step: warmup(step + 1), after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then the configured optimizer with its schedule.

    Adafactor has optax's defaults, so its rate is relative to each parameter's scale; Adam
    has 0.9, 0.999, 1e-8 (appendix F.2).
    """
    rate = learning_rate(config)
    optimizer = {
        "adafactor": lambda: optax.adafactor(rate),
        "adam": lambda: optax.adam(rate, mu_dtype=config.moment_dtype),
    }[config.name]()
    clip = (
        optax.identity()
        if config.clip_global_norm is None
        else optax.clip_by_global_norm(config.clip_global_norm)
    )
    return optax.chain(clip, optimizer)


def update_ema(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """ema <- d ema + (1 - d) params, with d = min(decay, (1 + step) / (10 + step)).

    The lower decay of the first steps forgets the initial parameters.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, params)
