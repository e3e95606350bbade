"""The training state and the pure step."""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from imagen_jax.checkpoints.power_ema import update_power_ema
from imagen_jax.checkpoints.state import TrainState
from imagen_jax.config import StageConfig
from imagen_jax.config.data import Size
from imagen_jax.networks import Networks, Params
from imagen_jax.training.objective import Batch, Metrics, Objective, with_mean_1
from imagen_jax.training.optim import learning_rate, schedule_step, trained, update_ema


def abstract_batch(
    config: StageConfig, batch_size: int, size: Size | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """What the data pipeline feeds a training step with.

    Args:
        size: (height, width) of the pictures; None for the largest of `training_sizes`.
    """
    size, inputs = size or max(config.training_sizes, key=math.prod), config.inputs
    low_size, length = [side // config.upscale for side in size], config.text_encoder.max_length
    array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)  # noqa: E731
    batch = {"image": array(jnp.uint8, *size, 3), "weight": array(jnp.float32)}
    batch |= {x.name: array(jnp.uint8, *low_size, x.channels) for x in inputs.stacked}
    batch |= {x.name: array(jnp.uint8, *size, x.stored_channels) for x in inputs.pictures}
    batch |= {name: array(jnp.float32) for name in inputs.numbers}
    if inputs.classes is not None:
        batch["label"] = array(jnp.int32)
    if inputs.text_width is not None:
        batch["mask"] = array(jnp.bool_, length)
        if config.data.embeddings:
            batch["text"] = array(jnp.bfloat16, length, inputs.text_width)
        else:
            batch["token_ids"] = array(jnp.int32, length)
    return batch


def train_step(
    config: StageConfig,
    networks: Networks,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One optimizer step on an objective; the same `state`, `batch` and `key` give the same result.

    Where loss, gradient or new parameters are not finite, parameters, EMA and optimizer stay as
    they are and the metric `skipped` is 1.

    `shardings` says where the state lies. Gradients are constrained to lie as their
    parameters, without which the partitioner may choose worse, or wrong, layouts.
    """
    keys = jax.random.split(jax.random.fold_in(key, state.step), batch["image"].shape[0])
    batch = batch | {"weight": with_mean_1(batch["weight"])}
    parts = config.training.accumulation_steps
    learns = trained(config.optimizer, state.params)

    def loss_of(params: Params, batch: Batch, keys: jax.Array) -> tuple[jax.Array, Metrics]:
        params = jax.tree.map(lambda t, p: p if t else jax.lax.stop_gradient(p), learns, params)
        losses, metrics = objective(config, networks, params, frozen, batch, keys)
        return jnp.mean(batch["weight"] * losses), metrics

    def gradient(batch: Batch, keys: jax.Array) -> tuple[tuple[jax.Array, Metrics], Params]:
        loss, grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, batch, keys)
        return loss, jax.lax.with_sharding_constraint(grads, shardings.params)

    if parts == 1:
        (loss, own), grads = gradient(batch, keys)
    else:
        (loss, own), grads = _accumulate(gradient, batch, keys, parts)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = update_ema(state.ema, params, state.step, config.optimizer.ema_decay)
    ema = jax.tree.map(lambda t, average, p: average if t else p, learns, ema, params)
    updated = state.replace(params=params, ema=ema, opt_state=opt_state)
    gradient_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    finite &= jnp.isfinite(optax.tree.norm(updated.params))
    kept = jax.tree.map(functools.partial(jnp.where, finite), updated, state)
    parameter_norm = optax.tree.norm(kept.params)
    distance = optax.tree.norm(jax.tree.map(jnp.subtract, kept.ema, kept.params))
    metrics = {
        "loss": loss,
        **own,
        "gradient_norm": gradient_norm,
        "parameter_norm": parameter_norm,
        "ema_distance": distance / parameter_norm,
        "learning_rate": learning_rate(config.optimizer)(schedule_step(state.opt_state)),
        "skipped": 1.0 - finite,
    }
    lengths = config.optimizer.power_ema
    averages = update_power_ema(state.power_ema, lengths, kept.params, state.step)
    return kept.replace(step=state.step + 1, power_ema=averages), metrics


def _accumulate(gradient, batch, keys, parts):
    """Mean of what `gradient` gives over `parts` equal parts of the batch, one after another.

    Part i takes every parts-th picture, so that each device keeps the pictures it has.
    """
    split = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)  # noqa: E731
    batches = jax.tree.map(split, (batch, keys))

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(*part)), None

    one = jax.eval_shape(gradient, *jax.tree.map(lambda x: x[0], batches))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
    total, _ = jax.lax.scan(add, zero, batches)
    return jax.tree.map(lambda x: x / parts, total)
