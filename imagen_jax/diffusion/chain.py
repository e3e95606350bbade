"""The discrete chain of 1000 steps with cosine betas (Nichol & Dhariwal 2021), and respacing.

DeepFloyd IF was trained on it. Step 999 has the most noise. A chain that visits only some of
its steps is again a chain (Nichol & Dhariwal 2021, section 4), so a list of steps, descending, is
all that a sampler needs.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.arrays import LogSNR, NoiseLevel, Time
from imagen_jax.config.choices import Spacing
from imagen_jax.errors import UsageError

STEPS = 1000
_MAX_BETA = 0.999

SETS: dict[str, tuple[int, ...]] = {
    "fast27": (10, 10, 3, 2, 2),
    "smart27": (7, 4, 2, 1, 2, 4, 7),
    "smart50": (10, 6, 4, 3, 2, 2, 3, 4, 6, 10),
    "smart100": (
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        2,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        7,
        7,
        8,
        9,
        10,
        13,
    ),
    "smart185": (
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15,
        16,
        18,
        20,
    ),
    "super27": (1, 1, 1, 1, 1, 1, 1, 2, 5, 13),
    "super40": (2, 2, 2, 2, 2, 2, 3, 4, 6, 15),
    "super100": (4, 4, 6, 6, 8, 8, 10, 10, 14, 30),
}
"""DeepFloyd IF's public sets, as numbers of steps in equal sections of the chain, from the clean
end up; see `sections`."""


def _log_snrs() -> Float[np.ndarray, "1000"]:
    """lambda_i = log(abar_i / (1 - abar_i)), abar_i = prod (1 - beta), in float64.

    beta_i = min(1 - f((i + 1) / 1000) / f(i / 1000), 0.999), f(t) = cos^2((t + 0.008) / 1.008 pi/2)
    (Nichol & Dhariwal 2021, eq. 17).
    """
    t = np.arange(STEPS + 1) / STEPS
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], _MAX_BETA)
    log_alpha_bar = np.cumsum(np.log1p(-betas))
    return log_alpha_bar - np.log(-np.expm1(log_alpha_bar))


LOG_SNRS = _log_snrs().astype(np.float32)
"""lambda of each step; decreasing."""


def step_at(t: Time) -> NoiseLevel:
    """The number, as float32, of the step that t in [0, 1] falls on: floor(1000 t), at most 999.

    The slack is for i / 1000 in float32, which may be just below it.
    """
    return jnp.clip(jnp.floor(STEPS * t + 1e-3), 0.0, STEPS - 1.0)


def log_snr(t: Time) -> LogSNR:
    """lambda of the step that t falls on: a staircase."""
    return jnp.asarray(LOG_SNRS)[step_at(t).astype(jnp.int32)]


def log_snr_before(log_snr: LogSNR) -> LogSNR:
    """lambda of the step one nearer to the clean picture; of step 0 its own."""
    step = step_of(log_snr).astype(jnp.int32)
    return jnp.asarray(LOG_SNRS)[jnp.maximum(step - 1, 0)]


def step_of(log_snr: LogSNR) -> NoiseLevel:
    """The number, as float32, of the step whose lambda is the nearest."""
    distance = jnp.abs(jnp.asarray(LOG_SNRS)[None] - log_snr[:, None])
    return jnp.argmin(distance, axis=1).astype(jnp.float32)


def sections(counts: Sequence[int]) -> tuple[int, ...]:
    """Steps, descending: `counts` says how many of each of as many equal sections of the chain.

    In a section they are even and hold both of its ends, a single one the lower end. With one
    section that is the original spacing of DDPM's respaced chains (Nichol & Dhariwal 2021).
    """
    steps, (size, longer) = [], divmod(STEPS, len(counts))
    for index, count in enumerate(counts):
        first = index * size + min(index, longer)
        width = size + (index < longer)
        stride = (width - 1) / max(count - 1, 1)
        # Added up and not multiplied, as the public sets are: halves are rounded as they fall.
        offsets = np.cumsum([0.0] + [stride] * (count - 1))
        steps += [first + round(offset) for offset in offsets[:count]]
    return tuple(steps[::-1])


def spaced(spacing: Spacing, count: int) -> tuple[int, ...]:
    """`count` steps, descending: from 999 to 0 (even), to 0 (leading) or from 999 (trailing).

    `leading` and `trailing` are multiples of the whole number 1000 // count, and of 1000 / count
    (Lin et al. 2024, table 2).

    Raises:
        UsageError: there are not so many.
    """
    if count > STEPS:
        raise UsageError(f"There are {STEPS} steps of the discrete chain; {count} were asked for.")
    make = {
        "even": lambda: sections((count,)),
        "leading": lambda: np.arange(count)[::-1] * (STEPS // count),
        "trailing": lambda: np.round(STEPS * np.arange(count, 0, -1) / count) - 1,
    }
    return tuple(int(step) for step in make[spacing]())
