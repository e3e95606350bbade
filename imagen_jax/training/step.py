"""The training state and the pure step."""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from imagen_jax.checkpoints.state import TrainState
from imagen_jax.conditions import drop_text, low_res_inputs, noise_level
from imagen_jax.config import StageConfig
from imagen_jax.config.data import Size
from imagen_jax.diffusion import process, schedules
from imagen_jax.diffusion.pixels import to_unit
from imagen_jax.diffusion.variance import variance_loss
from imagen_jax.networks import Networks, Params
from imagen_jax.training.optim import learning_rate, trained, update_ema

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TIME_BINS = 10
"""Equal parts of t in [0, 1] whose losses are told apart."""


def abstract_batch(
    config: StageConfig, batch_size: int, size: Size | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """What the data pipeline feeds a training step with.

    Args:
        size: (height, width) of the pictures; None for the largest of `training_sizes`.
    """
    height, width = size or max(config.training_sizes, key=math.prod)
    text = config.text_encoder
    array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)  # noqa: E731
    batch = {
        "image": array(jnp.uint8, height, width, 3),
        "mask": array(jnp.bool_, text.max_length),
        "weight": array(jnp.float32),
    }
    if config.data.embeddings:
        batch["text"] = array(jnp.bfloat16, text.max_length, text.t5.d_model)
    else:
        batch["token_ids"] = array(jnp.int32, text.max_length)
    if config.low_resolution is not None:
        low_res = (height // config.upscale, width // config.upscale)
        batch["low_res"] = array(jnp.uint8, *low_res, 3)
    return batch


def picture_losses(
    config: StageConfig,
    networks: Networks,
    params: Params,
    frozen: Params,
    batch: Batch,
    keys: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Diffusion loss and time t of every picture of a batch.

    Every picture draws its own time, noise, caption dropout and aug_level from its own key.

    Args:
        params: trained parameters.
        frozen: what is not trained: a frozen text encoder, and the "null_text" where that is
            the empty caption.
        batch: image and, for super-resolution, low_res (uint8); mask, and token_ids or text.
            Its `weight` is not applied.
        keys: one per picture.
    """
    x = to_unit(batch["image"])
    times, noise, drops, levels, augmentations = jax.vmap(
        functools.partial(jax.random.split, num=5), out_axes=1
    )(keys)
    t = jax.vmap(jax.random.uniform)(times)
    drop = jax.vmap(jax.random.uniform)(drops) < config.training.caption_dropout
    text = networks.text_of(params | frozen, batch)
    text, mask = drop_text(text, batch["mask"], drop, frozen.get("null_text"))
    state = networks.encode_text(params, text, mask)
    inputs = {}
    if config.low_resolution is not None:
        level = jax.vmap(jax.random.uniform)(levels) * config.diffusion.max_aug_level
        inputs = low_res_inputs(config, batch["low_res"], level, augmentations, x.shape[1:3])
    log_snr = schedules.log_snr(config.diffusion.schedule, t)
    eps = process.normal(noise, x.shape[1:])
    z = process.q_sample(x, eps, log_snr)
    prediction = networks.predict(params, z, noise_level(config, log_snr), state, **inputs)
    prediction, variance = jnp.split(prediction, [x.shape[-1]], axis=-1)
    kind = config.diffusion.prediction
    losses = process.loss(prediction, x, eps, log_snr, kind, config.diffusion.min_snr_gamma)
    if config.unet.predicts_variance:
        error = eps - process.to_eps(prediction, z, log_snr, kind)
        losses += variance_loss((variance + 1) / 2, error, log_snr)
    return losses, t


def stage_loss(config: StageConfig, networks: Networks, params: Params, frozen: Params,
               batch: Batch, keys: jax.Array) -> jax.Array:  # fmt: skip
    """Mean diffusion loss of a batch's pictures; the arguments are those of `picture_losses`."""
    losses, _ = picture_losses(config, networks, params, frozen, batch, keys)
    return jnp.mean(with_mean_1(batch["weight"]) * losses)


def with_mean_1(weight: jax.Array) -> jax.Array:
    """Weights whose mean is 1, exactly where all are; NaN where there is none."""
    return weight * (len(weight) / jnp.sum(weight))


def by_time(losses: jax.Array, t: jax.Array, weight: jax.Array) -> Metrics:
    """Per bin of t, its pictures' summed loss and their number, both over the batch's size.

    Their quotient is the bin's mean loss, also after both are averaged over batches.
    """
    bins = jax.nn.one_hot(jnp.minimum(t * TIME_BINS, TIME_BINS - 1).astype(int), TIME_BINS)
    bins *= weight[:, None]
    return {"bin_losses": jnp.mean(losses[:, None] * bins, 0), "bin_shares": jnp.mean(bins, 0)}


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
        losses, t = picture_losses(config, networks, params, frozen, batch, keys)
        return jnp.mean(batch["weight"] * losses), by_time(losses, t, batch["weight"])

    def gradient(batch: Batch, keys: jax.Array) -> tuple[tuple[jax.Array, Metrics], Params]:
        loss, grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, batch, keys)
        return loss, jax.lax.with_sharding_constraint(grads, shardings.params)

    if parts == 1:
        (loss, bins), grads = gradient(batch, keys)
    else:
        (loss, bins), grads = _accumulate(gradient, batch, keys, parts)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = update_ema(state.ema, params, state.step, config.optimizer.ema_decay)
    ema = jax.tree.map(lambda t, average, p: average if t else p, learns, ema, params)
    updated = TrainState(step=state.step, params=params, ema=ema, opt_state=opt_state)
    gradient_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    finite &= jnp.isfinite(optax.tree.norm(updated.params))
    kept = jax.tree.map(functools.partial(jnp.where, finite), updated, state)
    parameter_norm = optax.tree.norm(kept.params)
    distance = optax.tree.norm(jax.tree.map(jnp.subtract, kept.ema, kept.params))
    metrics = {
        "loss": loss,
        **bins,
        "gradient_norm": gradient_norm,
        "parameter_norm": parameter_norm,
        "ema_distance": distance / parameter_norm,
        "learning_rate": learning_rate(config.optimizer)(state.step),
        "skipped": 1.0 - finite,
    }
    return kept.replace(step=state.step + 1), metrics


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
