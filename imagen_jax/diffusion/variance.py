"""The loss of a predicted variance (Nichol & Dhariwal 2021, section 3.1).

On a chain of steps i, a network that predicts its variance says for each value how far, f from 0
to 1, the log-variance of p(z_{i-1} | z_i) lies from that of q(z_{i-1} | z_i, x) towards that of
q(z_i | z_{i-1}) (eq. 15). What it is trained by is the variational bound of that step.
"""

import math

import jax
import jax.numpy as jnp

from imagen_jax.arrays import Images, LogSNR
from imagen_jax.diffusion import chain
from imagen_jax.diffusion.schedules import PerPicture, over_pixels


def variance_loss(fraction: Images, eps_error: Images, log_snr: LogSNR) -> PerPicture:
    """KL(q(z_{i-1} | z_i, x) || p(z_{i-1} | z_i)), mean over values, in bits, shape [batch].

    = 1/2 (L - 1 + e^{-L} (1 + (e^h - 1) (eps - eps_theta)^2)), where h = lambda_{i-1} - lambda_i
    and L = f (log sigma_i^2 - log sigma_{i-1}^2) is what the log-variance of p is above that of q.

    It is L_hybrid's second part (eq. 16): of L_vlb, the sum over 1000 steps, one step drawn at
    random gives 1000 KL, and its weight there is 0.001. The error is held fixed, so that this
    trains the variance alone. At step 0 it is 0: no sampler adds noise there. (Theirs has a
    likelihood of 8-bit pixels in its place.)

    Args:
        fraction: f; it may leave [0, 1].
        eps_error: eps - eps_theta.
        log_snr: lambda_i of the pictures' steps on the chain.
    """
    before = chain.log_snr_before(log_snr)
    above = jax.nn.log_sigmoid(-log_snr) - jax.nn.log_sigmoid(-before)
    above = fraction * over_pixels(above)
    error = jnp.square(jax.lax.stop_gradient(eps_error))
    spread = 1 + over_pixels(jnp.expm1(before - log_snr)) * error
    nats = 0.5 * (above - 1 + jnp.exp(-above) * spread).mean((1, 2, 3))
    return nats / math.log(2)
