"""Work and memory traffic of a compiled program, loops counted by their turns."""

import functools
import math
import re

from imagen_jax.costs.collectives import KINDS
from imagen_jax.costs.hlo import Instruction, Program

Bytes = int | float
"""Whole, or infinite where there is no limit."""
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
    "partition-id",
    "replica-id",
    "async-start",
    "async-update",
}
"""Move nothing themselves."""
Scope = dict[str, Instruction]
"""The instructions of one computation by their names."""
_SLICES = ("dynamic-slice", "slice", "gather")


def flops(program: Program) -> int:
    """Multiplications and additions of all dots and convolutions, on one chip and in one call.

    Custom kernels, such as Pallas attention, are not seen. Work that the partitioner repeats
    on several chips, and what is computed twice to save memory, is.
    """
    total = 0
    for run in program.runs():
        scope = program.computations[run.computation]
        if run.instruction.opcode == "dot":
            total += run.times * _dot_flops(run.instruction, scope)
        elif run.instruction.opcode == "convolution":
            total += run.times * _convolution_flops(run.instruction, scope)
    return total


def hbm_bytes(program: Program) -> int:
    """Bytes read from and written to HBM, on one chip and in one call; an estimate.

    Every operation that is not inside a fusion reads its operands and writes its results, but
    for arrays that the compiler keeps in vector memory and, of slices, what is not cut out.
    That neglects what a convolution reads more than once and so is nearer a lower bound.
    """
    moved = (
        run.times * _moved(program, run.computation, run.instruction)
        for run in program.runs()
        if not run.fused
    )
    return int(sum(moved))


def _moved(program: Program, computation: str, instruction: Instruction) -> Bytes:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or "AllocateBuffer" in instruction.attributes:
        return 0
    scope = program.computations[computation]
    operands = [scope[name] for name in instruction.operands]
    if opcode.removesuffix("-start") in _SLICES:
        # The result of a start holds the operands, all of them, before what is cut out.
        cut = instruction.shapes[len(operands) if opcode.endswith("-start") else 0]
        read = cut.bytes if operands[0].shapes[0].hbm_bytes else 0
        return read + cut.hbm_bytes
    if opcode.endswith("-start"):  # Its result holds the operands too.
        return sum(shape.hbm_bytes for shape in instruction.shapes)
    written = sum(shape.hbm_bytes for shape in instruction.shapes)
    if opcode == "dynamic-update-slice":
        return 2 * sum(shape.hbm_bytes for shape in operands[1].shapes)
    if opcode != "fusion":
        return written + sum(shape.hbm_bytes for x in operands for shape in x.shapes)
    inner = program.computations[instruction.called()[0]]
    read = sum(
        min(_read(program, inner, index), sum(shape.hbm_bytes for shape in operand.shapes))
        for index, operand in enumerate(operands)
    )
    return read + min(written, _written(program, inner, _root(inner)))


def _read(program: Program, inner: Scope, index: int) -> Bytes:
    """Bytes that a fusion reads of operand `index`: of one that it only slices, the slices."""
    return sum(
        _read_by_users(program, inner, i.name)
        for i in inner.values()
        if i.opcode == "parameter" and i.literal == str(index)
    )


def _read_by_users(program: Program, inner: Scope, name: str) -> Bytes:
    total = 0
    for user in inner.values():
        positions = [index for index, operand in enumerate(user.operands) if operand == name]
        if not positions:
            continue
        if user.opcode == "bitcast":
            total += _read_by_users(program, inner, user.name)
        elif user.opcode == "fusion":
            nested = program.computations[user.called()[0]]
            total += sum(_read(program, nested, position) for position in positions)
            if _handed_on(nested) in positions:
                total += _read_by_users(program, inner, user.name)
        elif user.opcode == "tuple" or user.opcode in KINDS:
            continue  # It is handed on.
        elif user.opcode in _SLICES and positions == [0]:
            total += sum(shape.bytes for shape in user.shapes)
        elif user.opcode != "dynamic-update-slice" or positions != [0]:  # Written in place.
            return math.inf
    return total


def _handed_on(inner: Scope) -> int | None:
    """Which operand a fusion gives as its result, reinterpreted at most; None where it computes."""
    result = _root(inner)
    while result.opcode == "bitcast":
        result = inner[result.operands[0]]
    return int(result.literal) if result.opcode == "parameter" else None


def _written(program: Program, inner: Scope, result: Instruction) -> Bytes:
    """Bytes at most that a fusion writes for a result: of an update in place, the update.

    A TPU sends behind other work: the fusions that do this work hand the arrays of a collective
    on to each other, which were counted where it started.
    """
    if result.opcode == "parameter" or result.opcode in KINDS:
        return 0
    if result.opcode in ("tuple", "bitcast"):
        return sum(_written(program, inner, inner[name]) for name in result.operands)
    if result.opcode == "fusion":
        nested = program.computations[result.called()[0]]
        return _written(program, nested, _root(nested))
    written = inner[result.operands[1]] if result.opcode == "dynamic-update-slice" else result
    return sum(shape.bytes for shape in written.shapes)


def _root(inner: Scope) -> Instruction:
    (root,) = (instruction for instruction in inner.values() if instruction.is_root)
    return root


def _sizes(instruction: Instruction, name: str) -> list[int]:
    return [int(x) for x in (instruction.attribute(name) or "").split(",") if x]


def _dot_flops(dot: Instruction, scope: Scope) -> int:
    left = scope[dot.operands[0]].shapes[0].sides
    contracted = math.prod(left[axis] for axis in _sizes(dot, "lhs_contracting_dims"))
    return 2 * math.prod(dot.shapes[0].sides) * contracted


def _convolution_flops(convolution: Instruction, scope: Scope) -> int:
    """2 x results x input channels of a group x taps that fall on the picture.

    TPUs write dots as convolutions too: batch axes as windows over dilated input, in which
    only one tap of each falls on a value.
    """
    image, kernel = (scope[name].shapes[0].sides for name in convolution.operands[:2])
    image_axes, kernel_axes, result_axes = re.split(
        r"_|->", convolution.attribute("dim_labels") or ""
    )
    result = dict(zip(result_axes, convolution.shapes[0].sides, strict=True))
    inputs = dict(zip(image_axes, image, strict=True))
    taps = dict(zip(kernel_axes, kernel, strict=True))
    windows = _windows(convolution)
    valid = math.prod(
        valid_taps(inputs[axis], taps[axis], result[axis], *windows[int(axis)])
        for axis in result
        if axis.isdigit()
    )
    return 2 * result["b"] * result["f"] * taps["i"] * valid


def _windows(convolution: Instruction) -> list[tuple[int, int, int, int]]:
    """(stride, padding before, dilation of the input, of the kernel) of each axis."""
    window = convolution.attribute("window") or ""
    fields = dict(part.split("=") for part in window.split())
    if not fields:
        return []
    count = fields["size"].count("x") + 1

    def values(name: str, default: str) -> list[str]:
        return fields.get(name, "x".join([default] * count)).split("x")

    before = [pad.split("_")[0] for pad in values("pad", "0_0")]
    columns = values("stride", "1"), before, values("lhs_dilate", "1"), values("rhs_dilate", "1")
    return [tuple(map(int, axis)) for axis in zip(*columns, strict=True)]


@functools.cache
def valid_taps(
    size: int, taps: int, results: int, stride: int, before: int, dilation: int, tap_dilation: int
) -> int:
    """How many (result, tap) pairs of one axis read a value rather than padding or a gap."""
    last = (size - 1) * dilation
    positions = (
        result * stride - before + tap * tap_dilation
        for result in range(results)
        for tap in range(taps)
    )
    return sum(0 <= p <= last and p % dilation == 0 for p in positions)
