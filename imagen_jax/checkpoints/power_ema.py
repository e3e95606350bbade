"""Averages of weights whose length is chosen when training is over (post-hoc EMA).

Karras et al. 2024 (https://arxiv.org/abs/2312.02696, section 3 and appendix C). An average

    theta^(t) = sum_i ((i / t)^(g + 1) - ((i - 1) / t)^(g + 1)) theta_i

grows with the run: its length sigma_rel, the deviation of its weights by t, stays. Of a few such
averages, kept at some steps, a sum is nearly the average of any other length. The coefficients are
those of least squares between the profiles p(tau) = (g + 1) tau^g / t^(g + 1).
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import read_config
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params, abstract_params
from imagen_jax.parallel.mesh import parameter_shardings, with_shardings
from imagen_jax.storage.files import AnyPath

LONGEST = 0.25
_MOST_ERROR = 0.1


class Snapshots(Checkpoints):
    """What a run keeps of its `power_ema` for good."""

    NAME, ASIDE, ITEMS = "snapshots", "snapshots_taken_again", ("power_ema",)

    def steps(self) -> list[int]:
        """All of them; on several processes, which tell each other little at once, the newest."""
        if jax.process_count() > 1:
            return super().steps()
        return sorted(self._manager.all_steps(), reverse=True)


def exponent(length: float) -> float:
    """g of sigma_rel^2 = (g + 1) / ((g + 2)^2 (g + 3)), the largest (equation 127 there)."""
    by_square = length**-2
    return float(np.roots([1, 7, 16 - by_square, 12 - by_square]).real.max())


def update_power_ema(
    averages: tuple[Params, ...], lengths: Sequence[float], params: Params, step: jax.Array
) -> tuple[Params, ...]:
    """theta^ <- b theta^ + (1 - b) theta, b = (1 - 1 / t)^(g + 1), t = `step` + 1."""

    def updated(average: Params, length: float) -> Params:
        # 1 - b itself: b is so near to 1 that float32 has few digits of the difference.
        share = -jnp.expm1((exponent(length) + 1) * jnp.log1p(-1 / (step + 1.0)))
        return jax.tree.map(lambda e, p: e + share * (p - e), average, params)

    return tuple(map(updated, averages, lengths))


@dataclasses.dataclass(frozen=True)
class Fit:
    """How an average is made of snapshots.

    Attributes:
        coefficients: of each snapshot (rows) and each of its averages (columns).
        error: |sum of profiles - wanted profile| / |wanted profile|.
    """

    coefficients: Float[np.ndarray, "steps lengths"]
    error: float


def fit(steps: Sequence[int], lengths: Sequence[float], length: float) -> Fit:
    """The average of a length at the newest of the steps, of those of `lengths` at all of them."""
    t = np.repeat(np.float64(steps), len(lengths))
    g = np.tile([exponent(x) for x in lengths], len(steps))
    end, wanted = np.float64(max(steps)), exponent(length)
    products = _products(t[:, None], g[:, None], t[None], g[None])
    towards = _products(t, g, end, wanted)
    found = np.linalg.lstsq(products, towards, rcond=None)[0]
    found /= found.sum()  # An average, not a multiple of one; as in the authors' own code.
    whole = _products(end, wanted, end, wanted)
    missed = (found @ products @ found - 2 * found @ towards + whole) / whole
    return Fit(found.reshape(len(steps), -1), float(np.sqrt(max(missed, 0.0))))


def _products(t_a: Any, g_a: Any, t_b: Any, g_b: Any) -> Any:
    """The integral of two profiles' product (appendix C.2 there)."""
    power = np.where(t_a < t_b, g_b, -g_a)
    scale = (g_a + 1) * (g_b + 1) / ((g_a + g_b + 1) * np.maximum(t_a, t_b))
    return scale * (t_a / t_b) ** power


def rebuild(workdir: AnyPath, mesh: jax.sharding.Mesh, length: float) -> tuple[Params, float]:
    """Float32 parameters that are the average of a length at a run's newest snapshot, and `Fit`'s
    error.

    Raises:
        UsageError: the directory has no snapshots, too few, or a damaged one, or `length` is none
            that they make.
    """
    config = read_config(workdir)
    lengths, abstract = config.optimizer.power_ema, abstract_params(config)
    stored = (jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), abstract),)
    wanted = {"power_ema": stored * len(lengths)}
    wanted = with_shardings(wanted, parameter_shardings(wanted, mesh))
    with contextlib.closing(Snapshots(workdir)) as snapshots:
        steps = snapshots.steps() if lengths else []
        made = _fit(steps, workdir, lengths, length)
        total = jax.tree.map(
            lambda x: jnp.zeros(x.shape, device=x.sharding), wanted["power_ema"][0]
        )
        for step, row in zip(steps, made.coefficients, strict=True):
            restored = snapshots.restore(lambda _: wanted, at_most=step)
            if restored.step != step:
                raise UsageError(
                    f"The snapshot {snapshots.directory / str(step)} is damaged; without it, "
                    "where you delete it, the others make an average."
                )
            total = _added(total, restored.items["power_ema"], row)
    return total, made.error


def _fit(steps: Sequence[int], workdir: AnyPath, lengths: Sequence[float], length: float) -> Fit:
    """`fit` of a run's snapshots; raises a UsageError where they do not make that length."""
    if not steps:
        raise UsageError(
            f"{workdir} holds no snapshots; a run keeps them where optimizer.power_ema names "
            "lengths, which --ema-length makes others of."
        )
    if not min(lengths) <= length <= LONGEST:
        raise UsageError(
            f"--ema-length is {length:g}; it must lie between {min(lengths):g}, the shortest in "
            f"optimizer.power_ema, and {LONGEST}."
        )
    made = fit(steps, lengths, length)
    if made.error > _MOST_ERROR:
        raise UsageError(
            f"--ema-length is {length:g}; the {len(made.coefficients)} snapshots of {workdir} come "
            f"within {made.error:.0%} of it, and must come within {_MOST_ERROR:.0%}."
        )
    return made


@jax.jit
def _added(total: Params, averages: tuple[Params, ...], row: jax.Array) -> Params:
    def added(total: jax.Array, *averages: jax.Array) -> jax.Array:
        return total + sum(x * row[i] for i, x in enumerate(averages))

    return jax.tree.map(added, total, *averages)
