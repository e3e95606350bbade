"""How much memory the values of a function need at once, without compiling it.

A model of what a compiler does, not a simulation of one. It runs through the equations in
their order and keeps every value from where it is made to its last use, but

- a value that only elementwise operations separate from values that are kept anyway is not
  kept: it is computed again where it is used, inside the operation that uses it;
- parameters, and gradients of them, are not counted beyond the one operation that has them
  whole: they are stored in shards, which the caller counts;
- what a scan stacks is there from the beginning: XLA makes the stacks, still empty, early;
- of what depends on the platform only the default is there, which is what TPUs and GPUs run.
"""

import dataclasses
import math
from collections.abc import Sequence

from jax.extend import core

from imagen_jax.costs.model_flops import inner_jaxpr, scan_parts

_HEAVY = {
    "dot_general",
    "conv_general_dilated",
    "scan",
    "while",
    "cond",
    "gather",
    "scatter",
    "scatter-add",
    "scatter_add",
    "concatenate",
    "sort",
    "cumsum",
    "random_bits",
    "threefry2x32",
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "argmax",
    "dynamic_slice",
    "dynamic_update_slice",
    "reduce_window_sum",
    "top_k",
    "custom_call",
}
"""Their results are stored; all others can be computed inside the operation that uses them."""
_WORTH_KEEPING = 1.25
"""A cheap value is stored if what it is made from takes more than this times its own bytes."""


@dataclasses.dataclass(frozen=True)
class _Value:
    """A value by what has to be stored for it.

    Attributes:
        size: bytes of the value itself.
        roots: numbers of the stored values that it is computed from.
        is_weight: made from parameters alone.
    """

    size: int
    roots: frozenset[int] = frozenset()
    is_weight: bool = False


class _Timeline:
    """Operations in their order, and what is stored from when to when."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.made: list[int] = []
        self.used: list[int] = []
        self.extra: list[int] = []

    def operate(
        self, inputs: Sequence[_Value], sizes: Sequence[int], extra: int, *, early: bool = False
    ) -> list[_Value]:
        """One operation that stores values of these sizes and needs `extra` bytes meanwhile.

        With `early` there is room for the values from the beginning.
        """
        now = len(self.extra)
        self.extra.append(extra + sum(value.size for value in inputs if value.is_weight))
        for value in inputs:
            self.use(value, now)
        results = []
        for size in sizes:
            results.append(_Value(size, frozenset([len(self.sizes)])))
            self.sizes.append(size)
            self.made.append(0 if early else now)
            self.used.append(now)
        return results

    def use(self, value: _Value, now: int) -> None:
        for root in value.roots:
            self.used[root] = max(self.used[root], now)

    def peak(self) -> int:
        """The most bytes that are stored at one time."""
        change = [0] * (len(self.extra) + 1)
        for size, made, used in zip(self.sizes, self.made, self.used, strict=True):
            change[made] += size
            change[used + 1] -= size
        live = most = 0
        for now, extra in enumerate(self.extra):
            live += change[now]
            most = max(most, live + extra)
        return most


def peak_bytes(jaxpr: core.Jaxpr, is_weight: Sequence[bool], is_gradient: Sequence[bool]) -> int:
    """Bytes that the intermediate values need at once; inputs are not counted.

    Args:
        jaxpr: the function.
        is_weight: which inputs are parameters.
        is_gradient: which results are gradients of parameters.
    """
    timeline = _Timeline()
    inputs = [
        _Value(_size(var.aval) if weight else 0, is_weight=weight)
        for var, weight in zip(jaxpr.invars, is_weight, strict=True)
    ]
    results = _run(timeline, jaxpr, inputs, is_gradient)
    for value in results:
        timeline.use(value, len(timeline.extra) - 1)
    return timeline.peak()


def _run(
    timeline: _Timeline, jaxpr: core.Jaxpr, inputs: Sequence[_Value], is_gradient: Sequence[bool]
) -> list[_Value]:
    values = dict(zip(jaxpr.invars, inputs, strict=True))
    values |= {var: _Value(_size(var.aval), is_weight=True) for var in jaxpr.constvars}
    gradients = _only_for_gradients(jaxpr, is_gradient)
    get = lambda var: values.get(var, _Value(0)) if _is_var(var) else _Value(0)  # noqa: E731
    for eqn in jaxpr.eqns:
        flags = [var in gradients for var in eqn.outvars]
        results = _step(timeline, eqn, [get(var) for var in eqn.invars], flags)
        values |= dict(zip(eqn.outvars, results, strict=True))
    return [get(var) for var in jaxpr.outvars]


def _step(
    timeline: _Timeline, eqn: core.JaxprEqn, inputs: list[_Value], flags: list[bool]
) -> list[_Value]:
    """The results of one equation; `flags` says which are gradients."""
    name = eqn.primitive.name
    if (branch := _accelerator_branch(eqn)) is not None:
        return _run(timeline, branch, inputs[1:], flags)
    inner = None if name == "scan" else inner_jaxpr(eqn)
    if inner is not None:
        return _run(timeline, inner, inputs, flags)
    sizes = [_size(var.aval) for var in eqn.outvars]
    if name not in _HEAVY:
        return [
            _cheap(timeline, inputs, size, flag) for size, flag in zip(sizes, flags, strict=True)
        ]
    extra = sum(size for size, flag in zip(sizes, flags, strict=True) if flag)
    if name == "scan":
        extra = _turn_bytes(eqn, inputs, flags)
    kept = [0 if flag else size for size, flag in zip(sizes, flags, strict=True)]
    inputs = [value for value in inputs if not (name == "scan" and value.is_weight)]
    carries = scan_parts(eqn)[1] if name == "scan" else len(kept)
    return [
        *timeline.operate(inputs, kept[:carries], extra),
        *timeline.operate([], kept[carries:], 0, early=True),
    ]


def _accelerator_branch(eqn: core.JaxprEqn) -> core.Jaxpr | None:
    """What a `platform_dependent` does where it has nothing of the platform's own."""
    platforms = eqn.params.get("branches_platforms")
    return None if platforms is None else eqn.params["branches"][platforms.index(None)].jaxpr


def _cheap(timeline: _Timeline, inputs: list[_Value], size: int, is_gradient: bool) -> _Value:
    """A value that is computed where it is used, unless storing it takes less."""
    if is_gradient:
        return timeline.operate(inputs, [0], 0)[0]
    roots = frozenset().union(*(value.roots for value in inputs))
    if not roots:
        return _Value(size, is_weight=any(value.is_weight for value in inputs))
    if sum(timeline.sizes[root] for root in roots) > _WORTH_KEEPING * size:
        return timeline.operate(inputs, [size], 0)[0]
    return _Value(size, roots)


def _turn_bytes(eqn: core.JaxprEqn, inputs: list[_Value], flags: list[bool]) -> int:
    """What one turn of a scan needs beside its stacked inputs and results."""
    weights = [value.is_weight for value in inputs]
    _, carries = scan_parts(eqn)
    return peak_bytes(inner_jaxpr(eqn), weights, [*[False] * carries, *flags[carries:]])


def _only_for_gradients(jaxpr: core.Jaxpr, is_gradient: Sequence[bool]) -> set:
    """Variables that end in nothing but gradients, through cheap operations alone."""
    found = {var for var, flag in zip(jaxpr.outvars, is_gradient, strict=True) if flag}
    found -= {var for var, flag in zip(jaxpr.outvars, is_gradient, strict=True) if not flag}
    others = set()
    for eqn in reversed(jaxpr.eqns):
        heavy = eqn.primitive.name in _HEAVY or inner_jaxpr(eqn) is not None
        passes_on = not heavy and all(var in found for var in eqn.outvars)
        for var in filter(_is_var, eqn.invars):
            (found if passes_on and var not in others else others).add(var)
        found -= others
    return {var for var in found if _is_var(var)}


def _is_var(var) -> bool:
    return not isinstance(var, core.Literal)


def _size(aval) -> int:
    itemsize = getattr(aval.dtype, "itemsize", 4)
    return math.prod(aval.shape) * itemsize
