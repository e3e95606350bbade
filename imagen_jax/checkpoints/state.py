"""All that a run has come to: what a checkpoint holds of it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.struct import dataclass

from imagen_jax.config import StageConfig
from imagen_jax.networks import Params, abstract_params, init_params


@dataclass
class TrainState:
    """All that a step changes; also its shapes or its shardings, in the same places.

    Attributes:
        step: batches taken in, also those whose update was skipped.
        params: what is trained.
        ema: its exponential moving average, which samples are made from.
        opt_state: the optimizer's.
        power_ema: averages of the lengths in `optimizer.power_ema`.
    """

    step: Any
    params: Params
    ema: Params
    opt_state: Any
    power_ema: tuple[Params, ...] = ()


def init_state(
    config: StageConfig, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    return first_state(config, optimizer, init_params(config, key))


def abstract_first_state(
    config: StageConfig, optimizer: optax.GradientTransformation
) -> TrainState:
    """Shapes and dtypes of what `init_state` makes."""
    make = functools.partial(first_state, config, optimizer)
    return jax.eval_shape(make, abstract_params(config))


def first_state(
    config: StageConfig, optimizer: optax.GradientTransformation, params: Params
) -> TrainState:
    """Step 0 of a run that starts from these parameters: all averages equal them."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        power_ema=tuple(jax.tree.map(jnp.copy, params) for _ in config.optimizer.power_ema),
    )
