"""The training state and the pure step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.struct import dataclass

from imagen_jax.config import StageConfig
from imagen_jax.diffusion import process, schedules
from imagen_jax.sampling import low_res_inputs, noise_level, to_unit
from imagen_jax.stage import Networks, Params, drop_text, init_params
from imagen_jax.training.optim import update_ema

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclass
class TrainState:
    """All that a step changes; also its shapes or its shardings, in the same places.

    Attributes:
        step: optimizer steps taken.
        params: what is trained.
        ema: its exponential moving average, which samples are made from.
        opt_state: the optimizer's.
    """

    step: Any
    params: Params
    ema: Params
    opt_state: Any


def init_state(
    config: StageConfig, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    params = init_params(config, key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )


def stage_loss(
    config: StageConfig,
    networks: Networks,
    params: Params,
    frozen: Params,
    batch: Batch,
    keys: jax.Array,
) -> jax.Array:
    """Mean diffusion loss of a batch.

    Every picture draws its own time, noise, caption dropout and aug_level from its own key.

    Args:
        params: trained parameters.
        frozen: parameters that are not trained (a frozen text encoder), or {}.
        batch: image and, for super-resolution, low_res (uint8); token_ids and mask.
        keys: one per picture.
    """
    x = to_unit(batch["image"])
    times, noise, drops, levels, augmentations = jax.vmap(
        functools.partial(jax.random.split, num=5), out_axes=1
    )(keys)
    t = jax.vmap(jax.random.uniform)(times)
    drop = jax.vmap(jax.random.uniform)(drops) < config.training.caption_dropout
    text = networks.embed(params | frozen, batch["token_ids"], batch["mask"])
    state = networks.encode_text(params, *drop_text(text, batch["mask"], drop))
    inputs = {}
    if config.low_resolution is not None:
        level = jax.vmap(jax.random.uniform)(levels) * config.diffusion.max_aug_level
        inputs = low_res_inputs(config, batch["low_res"], level, augmentations, x.shape[1:3])
    log_snr = schedules.log_snr(config.diffusion.schedule, t)
    eps = process.normal(noise, x.shape[1:])
    z = process.q_sample(x, eps, log_snr)
    prediction = networks.predict(params, z, noise_level(config, log_snr), state, **inputs)
    losses = process.loss(
        prediction, x, eps, log_snr, config.diffusion.prediction, config.diffusion.min_snr_gamma
    )
    return jnp.mean(losses)


def train_step(
    config: StageConfig,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One optimizer step; the same `state`, `batch` and `key` give the same result.

    `shardings` says where the state lies. Gradients are constrained to lie as their
    parameters, without which the partitioner may choose worse, or wrong, layouts.
    """
    keys = jax.random.split(jax.random.fold_in(key, state.step), batch["image"].shape[0])
    loss_of = jax.value_and_grad(functools.partial(stage_loss, config, networks))
    parts = config.training.accumulation_steps

    def gradient(batch: Batch, keys: jax.Array) -> tuple[jax.Array, Params]:
        loss, grads = loss_of(state.params, frozen, batch, keys)
        return loss, jax.lax.with_sharding_constraint(grads, shardings.params)

    if parts == 1:
        loss, grads = gradient(batch, keys)
    else:
        loss, grads = _accumulate(gradient, batch, keys, parts, state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = update_ema(state.ema, params, state.step, config.optimizer.ema_decay)
    metrics = {
        "loss": loss,
        "gradient_norm": optax.tree.norm(grads),
        "parameter_norm": optax.tree.norm(params),
    }
    return TrainState(step=state.step + 1, params=params, ema=ema, opt_state=opt_state), metrics


def _accumulate(gradient, batch, keys, parts, params):
    """Mean loss and gradient over `parts` equal parts of the batch, one after another.

    Part i takes every parts-th picture, so that each device keeps the pictures it has.
    """
    split = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)  # noqa: E731

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(*part)), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, jax.tree.map(split, (batch, keys)))
    return jax.tree.map(lambda x: x / parts, total)
