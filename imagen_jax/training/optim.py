"""Learning rate, optimizer, EMA, and which parameters they leave alone."""

import fnmatch
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imagen_jax.config import OptimizerConfig
from imagen_jax.errors import UsageError


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
    has 0.9, 0.999, 1e-8 (appendix F.2). Frozen parameters have no moments, no update and no
    part in the norm.
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
    optimizer = optax.chain(clip, optimizer)
    if not config.freeze:
        return optimizer

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda t: "trained" if t else "frozen", trained(config, params))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def trained(config: OptimizerConfig, params: Any) -> Any:
    """True for every parameter that is trained: no pattern of `freeze` fits its name.

    A name is a parameter's path with dots, as in exported files ("unet.conv_in.kernel").

    Raises:
        UsageError: a pattern fits none, or nothing is left to train.
    """
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    for pattern in config.freeze:
        if not fnmatch.filter(names, pattern):
            raise UsageError(
                f"optimizer.freeze has {pattern!r}, which fits no parameter; their names are like "
                f"{names[0]} and {names[-1]}."
            )
    chosen = [not any(fnmatch.fnmatchcase(name, p) for p in config.freeze) for name in names]
    if not any(chosen):
        raise UsageError(f"optimizer.freeze is {config.freeze}; it leaves nothing to train.")
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


def with_schedule_at(opt_state: Any, step: jax.Array) -> Any:
    """A new optimizer's state whose learning rate goes on from `step`."""

    def count(state: Any) -> Any:
        return state._replace(count=step) if _is_schedule(state) else state

    return jax.tree.map(count, opt_state, is_leaf=_is_schedule)


def schedule_step(opt_state: Any) -> jax.Array:
    """Where the learning rate's schedule stands: updates that are skipped do not move it."""
    states = jax.tree.leaves(opt_state, is_leaf=_is_schedule)
    return next(state.count for state in states if _is_schedule(state))


def _is_schedule(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)


def update_ema(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """ema <- d ema + (1 - d) params, with d = min(decay, (1 + step) / (10 + step)).

    The lower decay of the first steps forgets the initial parameters.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, params)
