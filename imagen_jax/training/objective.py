"""What a training step makes small: the diffusion loss, or another function of its form.

An objective of one's own is handed to `Trainer` or `loop.run`. What it needs beside the trained
parameters, such as a teacher's, stands in `frozen`; what it returns beside the losses is logged
under its names.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from imagen_jax.arrays import Keys, LogSNR, Time
from imagen_jax.conditions import Conditions, drop, hide
from imagen_jax.config import DiffusionConfig, StageConfig
from imagen_jax.diffusion import process, schedules
from imagen_jax.diffusion.pixels import to_unit
from imagen_jax.diffusion.schedules import PerPicture
from imagen_jax.diffusion.variance import variance_loss
from imagen_jax.networks import Networks, Params, prepare

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Objective = Callable[
    [StageConfig, Networks, Params, Params, Batch, jax.Array], tuple[jax.Array, Metrics]
]
"""(config, networks, params, frozen, batch, keys) -> the loss of every picture, and metrics.

`params` are the trained parameters and `frozen` all others: a frozen text encoder, the "null_text"
where that is the empty caption, and what the caller of the step adds. `batch` is what
`step.abstract_batch` says; its `weight`, of mean 1, is for the caller to apply to the losses, and
for metrics that are means over pictures. `keys` are one per picture. Metrics are arrays whose mean
over parts of a batch is that of the batch.
"""
TIME_BINS = 10
"""Equal parts of t in [0, 1] whose losses are told apart."""


def diffusion_loss(
    config: StageConfig,
    networks: Networks,
    params: Params,
    frozen: Params,
    batch: Batch,
    keys: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """The paper's objective: each picture's error in what the network predicts of its noise.

    Every picture draws its own time, noise, dropouts and aug_level from its own key. The
    metrics are those of `by_time`.
    """
    x = to_unit(batch["image"])
    times, noise, *others = split(keys, 5)
    t = jax.vmap(jax.random.uniform)(times)
    encoded = networks.encode(params, drawn(config, networks, params | frozen, batch, *others))
    log_snr = schedules.log_snr(config.diffusion.schedule, t)
    eps = process.normal(noise, x.shape[1:])
    z = process.q_sample(x, eps, log_snr)
    prediction, fraction, *_ = networks.predict(params, z, log_snr, encoded)
    kind = config.diffusion.prediction
    wanted = process.target(x, eps, log_snr, kind)
    losses = loss_weight(config.diffusion, t, log_snr) * process.mean_square(prediction, wanted)
    if fraction is not None:
        error = eps - process.to_eps(prediction, z, log_snr, kind)
        losses += variance_loss(fraction, error, log_snr)
    return losses, by_time(losses, t, batch["weight"])


def loss_weight(of: DiffusionConfig, t: Time, log_snr: LogSNR) -> PerPicture:
    """Each picture's weight at time t, as the config says; the paper's is 1."""
    if of.sigmoid_bias is not None:
        return process.sigmoid_weight(of.schedule, t, of.prediction, of.sigmoid_bias)
    if of.min_snr_gamma is not None:
        return process.min_snr_weight(log_snr, of.prediction, of.min_snr_gamma)
    return jnp.ones_like(t)


def _hidden(config: StageConfig, keys: jax.Array) -> dict[str, jax.Array]:
    """Name of a picture -> bool [batch], where it is left out; drawn for each by itself."""
    if not config.conditions.can_hide:
        return {}

    def draw(key: jax.Array, number: int) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, number))

    return {
        picture.name: jax.vmap(functools.partial(draw, number=number))(keys)
        < config.conditions.picture_dropout
        for number, picture in enumerate(config.inputs.pictures)
    }


def split(keys: Keys, number: int) -> Key[Array, "number batch"]:
    """`number` keys of each picture's own."""
    return jax.vmap(functools.partial(jax.random.split, num=number), out_axes=1)(keys)


def drawn(
    config: StageConfig,
    networks: Networks,
    params: Params,
    batch: Batch,
    drops: Keys,
    levels: Keys,
    augmentations: Keys,
) -> Conditions:
    """What the networks are told of a batch: captions dropped and pictures hidden at random, and
    the low-resolution picture noised to a random aug_level.

    Args:
        params: trained and frozen.
        drops, levels, augmentations: what each of these is drawn from.
    """
    dropped = jax.vmap(jax.random.uniform)(drops) < config.training.caption_dropout
    level = jax.vmap(jax.random.uniform)(levels) * config.diffusion.max_aug_level
    conditions = networks.conditions_of(params, batch)
    conditions = drop(conditions, dropped, params.get("null_text"))
    conditions = hide(conditions, _hidden(config, drops))
    return prepare(config, conditions, level, augmentations, batch["image"].shape[1:3])


def mean_loss(
    objective: Objective,
    config: StageConfig,
    networks: Networks,
    params: Params,
    frozen: Params,
    batch: Batch,
    keys: jax.Array,
) -> jax.Array:
    """The mean of an objective over a batch's pictures, whose weights need not have mean 1."""
    batch = batch | {"weight": with_mean_1(batch["weight"])}
    losses, _ = objective(config, networks, params, frozen, batch, keys)
    return jnp.mean(batch["weight"] * losses)


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
