"""The work that a function asks for, whatever a compiler makes of it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from imagen_jax.costs.hlo_costs import valid_taps


def model_flops(function: Callable, *arguments: Any, trained: bool = False) -> int:
    """Multiplications and additions of the dots and convolutions of one call.

    Loops count by their length. Nothing is compiled or computed.

    Args:
        function: of `arguments`.
        arguments: pytrees of arrays or abstract arrays.
        trained: adds the backward pass with respect to the first argument: every dot or
            convolution once more for each operand that depends on it. What a backward pass
            computes again to save memory is not counted.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    first = len(jax.tree.leaves(arguments[0])) if trained else 0
    flops, _ = _count(jaxpr, [index < first for index in range(len(jaxpr.invars))])
    return flops


def _count(jaxpr: core.Jaxpr, active: Sequence[bool]) -> tuple[int, list[bool]]:
    """Work of a jaxpr and which results are active: a gradient flows through them."""
    is_active = dict(zip(jaxpr.invars, active, strict=True))
    get = lambda var: not isinstance(var, core.Literal) and is_active.get(var, False)  # noqa: E731
    total = 0
    for eqn in jaxpr.eqns:
        flops, results = _count_eqn(eqn, [get(var) for var in eqn.invars])
        total += flops
        is_active.update(zip(eqn.outvars, results, strict=True))
    return total, [get(var) for var in jaxpr.outvars]


def _count_eqn(eqn: core.JaxprEqn, active: list[bool]) -> tuple[int, list[bool]]:
    name = eqn.primitive.name
    if name == "scan":
        return _count_scan(eqn, active)
    if name == "while":
        raise ValueError("A while loop has no length that can be read; use a scan.")
    if name == "cond":
        branches = [_count(branch.jaxpr, active[1:]) for branch in eqn.params["branches"]]
        results = [any(flags) for flags in zip(*(flags for _, flags in branches), strict=True)]
        return max(flops for flops, _ in branches), results
    inner = inner_jaxpr(eqn)
    if inner is not None:
        return _count(inner, active)
    flops = {"dot_general": _dot, "conv_general_dilated": _convolution}.get(name)
    work = 0 if flops is None else flops(eqn) * (1 + sum(active[:2]))
    flows = any(active)
    return work, [flows and _is_real(var.aval) for var in eqn.outvars]


def inner_jaxpr(eqn: core.JaxprEqn) -> core.Jaxpr | None:
    """The function that an equation calls with its own operands, if it calls one."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "callee"):
        inner = eqn.params.get(name)
        if isinstance(inner, core.ClosedJaxpr):
            inner = inner.jaxpr
        if isinstance(inner, core.Jaxpr) and len(inner.invars) == len(eqn.invars):
            return inner
    return None


def _count_scan(eqn: core.JaxprEqn, active: list[bool]) -> tuple[int, list[bool]]:
    """Turn by turn, until a turn has the same active carries as the one before."""
    body, (constants, carries) = inner_jaxpr(eqn), scan_parts(eqn)
    end, left, total = constants + carries, eqn.params["length"], 0
    while True:
        flops, results = _count(body, active)
        carried = [a or b for a, b in zip(active[constants:end], results[:carries], strict=True)]
        if carried == active[constants:end] or left == 1:
            return total + flops * left, results
        total, left = total + flops, left - 1
        active = [*active[:constants], *carried, *active[end:]]


def scan_parts(eqn: core.JaxprEqn) -> tuple[int, int]:
    """How many of a scan's operands are constants and how many, after them, are carries."""
    if "num_carry" in eqn.params:  # JAX 0.10
        return eqn.params["num_consts"], eqn.params["num_carry"]
    constants, carries, _ = eqn.params["ft_in"].unpack()
    return len(constants), len(carries)


def _is_real(aval: Any) -> bool:
    return jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact)


def _dot(eqn: core.JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(eqn: core.JaxprEqn) -> int:
    """2 x results x input channels of a group x taps that fall on the picture."""
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    image, kernel = (var.aval.shape for var in eqn.invars[:2])
    result = eqn.outvars[0].aval.shape
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    taps = math.prod(
        valid_taps(image[i], kernel[k], result[r], stride, before, dilation, tap_dilation)
        for (i, k, r), stride, (before, _), dilation, tap_dilation in zip(
            axes,
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    )
    batch, channels = (result[axis] for axis in numbers.out_spec[:2])
    return 2 * batch * channels * kernel[numbers.rhs_spec[1]] * taps
