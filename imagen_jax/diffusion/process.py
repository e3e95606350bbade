"""The forward process, the three things a network may predict, and the loss.

z = alpha x + sigma eps (paper, appendix A). x is the clean picture in [-1, 1], eps is
standard normal, z the noisy picture; v = alpha eps - sigma x (Salimans & Ho 2022). Any one
of x, eps, v gives the other two once z is known.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.arrays import AugLevel, Features, Images, LogSNR, Time
from imagen_jax.config.choices import Prediction
from imagen_jax.diffusion import schedules
from imagen_jax.diffusion.noise import NoiseKeys, normal
from imagen_jax.diffusion.schedules import PerPicture, alpha_sigma, over_pixels


class Predicted(NamedTuple):
    """What is predicted of every value of a picture."""

    value: Images
    """eps, x or v, as the network's kind of prediction says; of a `Denoise` the estimate of x."""
    fraction: Images | None = None
    """Where between its bounds, 0 to 1, the ancestral sampler's log-variance lies; None where that
    is not predicted."""
    away: Images | None = None
    """The estimate without text, where its noise is to be put back; of a `Denoise` only."""
    difference: Images | None = None
    """What guidance leads along, where the next step's depends on it; of a `Denoise` only."""


Denoise = Callable[..., Predicted]
"""(z, log_snr, index of the step) -> the estimate of x that a sampler steps with; where guidance
has a momentum, with the `difference` of the step before too."""


def q_sample(x: Images, eps: Images, log_snr: LogSNR) -> Images:
    """z = alpha x + sigma eps (appendix A)."""
    alpha, sigma = alpha_sigma(over_pixels(log_snr))
    return alpha * x + sigma * eps


def to_x0(prediction: Images, z: Images, log_snr: LogSNR, kind: Prediction) -> Images:
    """x = (z - sigma eps) / alpha = alpha z - sigma v."""
    alpha, sigma = alpha_sigma(over_pixels(log_snr))
    convert = {
        "x0": lambda x0: x0,
        "eps": lambda eps: (z - sigma * eps) / alpha,
        "v": lambda v: alpha * z - sigma * v,
    }
    return convert[kind](prediction)


def to_eps(prediction: Images, z: Images, log_snr: LogSNR, kind: Prediction) -> Images:
    """eps = (z - alpha x) / sigma = sigma z + alpha v."""
    alpha, sigma = alpha_sigma(over_pixels(log_snr))
    convert = {
        "x0": lambda x0: (z - alpha * x0) / sigma,
        "eps": lambda eps: eps,
        "v": lambda v: sigma * z + alpha * v,
    }
    return convert[kind](prediction)


def to_v(prediction: Images, z: Images, log_snr: LogSNR, kind: Prediction) -> Images:
    """v = (alpha z - x) / sigma = (eps - sigma z) / alpha."""
    alpha, sigma = alpha_sigma(over_pixels(log_snr))
    convert = {
        "x0": lambda x0: (alpha * z - x0) / sigma,
        "eps": lambda eps: (eps - sigma * z) / alpha,
        "v": lambda v: v,
    }
    return convert[kind](prediction)


def converted(
    prediction: Images, z: Images, log_snr: LogSNR, kind: Prediction, to: Prediction
) -> Images:
    """A prediction of one kind as one of another; of the same kind it is what it was."""
    return {"x0": to_x0, "eps": to_eps, "v": to_v}[to](prediction, z, log_snr, kind)


def target(x: Images, eps: Images, log_snr: LogSNR, kind: Prediction) -> Images:
    """eps, x, or v = alpha eps - sigma x: what a network of this kind should predict."""
    alpha, sigma = alpha_sigma(over_pixels(log_snr))
    return {"eps": eps, "x0": x, "v": alpha * eps - sigma * x}[kind]


def mean_square(prediction: Images, wanted: Images) -> PerPicture:
    """||prediction - wanted||^2 / (H W C), one value per picture: the paper's loss (appendix A),
    where both are of eps."""
    return jnp.square(prediction - wanted).mean((1, 2, 3))


def _on_prediction(weight: PerPicture, log_snr: LogSNR, kind: Prediction) -> PerPicture:
    """A weight on the squared error of x as one on that of the prediction: over 1 for x0, SNR for
    eps and SNR + 1 for v."""
    snr = jnp.exp(log_snr)
    return weight / {"x0": jnp.ones_like(snr), "eps": snr, "v": snr + 1}[kind]


def min_snr_weight(log_snr: LogSNR, kind: Prediction, gamma: float) -> PerPicture:
    """min(SNR, gamma) on the squared error of x (Hang et al. 2023)."""
    return _on_prediction(jnp.minimum(jnp.exp(log_snr), gamma), log_snr, kind)


def sigmoid_weight(
    schedule: schedules.Schedule, t: Time, kind: Prediction, bias: float
) -> PerPicture:
    """-1/2 dlambda/dt e^b sigmoid(lambda - b) on the squared error of x, for t drawn evenly
    (Hoogeboom et al. 2024, Simpler Diffusion, section 3).

    By the derivative the mean over t is an integral over lambda (Kingma & Gao 2023), which
    is the same whatever the schedule is. On the error of eps it leaves sigmoid(b - lambda).
    """
    log_snr = schedules.log_snr(schedule, t)
    on_x = math.exp(bias) * jax.nn.sigmoid(log_snr - bias)
    return _on_prediction(-0.5 * schedules.slope(schedule, t) * on_x, log_snr, kind)


def augment_low_res(
    low_res: Images, aug_level: AugLevel, keys: NoiseKeys, schedule: schedules.Schedule
) -> Images:
    """alpha x + sigma eps at t = aug_level: noise conditioning augmentation (section 2.4).

    Each picture has its own level and its own key. Level 0 adds noise of sigma 5e-5 under the
    cosine schedule, far below one step of 8 bits, and 6e-3, about one, on the discrete chain. The
    paper says "Gaussian noise augmentation" and nothing of its schedule; the caller passes one,
    usually the stage's own.
    """
    eps = normal(keys, low_res.shape[1:])
    return q_sample(low_res, eps, schedules.log_snr(schedule, aug_level))


def enlarge(x: Features, size: tuple[int, int]) -> Features:
    """`x` at `size` (height, width), bilinear, with the corner pixels' centres on each other."""

    def weights(old: int, new: int) -> Float[Array, "new old"]:
        position = jnp.linspace(0.0, old - 1.0, new)
        return jnp.maximum(1 - jnp.abs(position[:, None] - jnp.arange(old)[None]), 0.0)

    rows, columns = (weights(*pair) for pair in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("BHWC,hH,wW->BhwC", x, rows, columns, precision="highest")
