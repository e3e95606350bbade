"""Reads a compiled program (HLO text): its instructions and how often each one runs.

XLA's own cost analysis counts the body of a loop once; what is counted here is multiplied by
the loop's trip count.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$", re.DOTALL
)
_NAME = re.compile(r"%([\w.\-]+)")
_SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+|c64|c128)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INDEX = re.compile(r"index=(\d+)")
_VMEM = "S(1)"
"""Of a layout on TPUs: the array lies in the chip's vector memory, not in HBM."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of an instruction's result."""

    dtype: str
    sides: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        bits = int((re.findall(r"\d+", self.dtype) or ["8"])[0])  # pred takes a byte.
        return math.prod(self.sides) * max(bits, 8) // 8

    @property
    def hbm_bytes(self) -> int:
        return 0 if _VMEM in self.layout else self.bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = shapes opcode(operands), attributes`; for constants `operands` is the value."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    literal: str
    is_root: bool

    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        branches = _BRANCHES.search(self.attributes)
        names = _NAME.findall(branches[1]) if branches else []
        return names + _CALLED.findall(self.attributes)

    def attribute(self, name: str) -> str | None:
        """The attribute that stands as NAME=VALUE or NAME={VALUE}, without braces."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|([^\s,]+))", self.attributes)
        return None if found is None else found[1] if found[1] is not None else found[2]


@dataclasses.dataclass(frozen=True)
class Run:
    """An instruction in its place.

    Attributes:
        times: how often it runs in one call of the program.
        place: the chain of call sites that leads to it; its last loop, or "" outside of loops.
        fused: it is part of a fusion, so that its operands and result need no memory.
    """

    instruction: Instruction
    computation: str
    times: int
    place: str
    fused: bool


class Program:
    """All computations of a compiled program.

    Attributes:
        computations: name -> its instructions by their names.
        unknown_loops: loops whose trip count cannot be read; they count as one turn.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.unknown_loops: list[str] = []
        self._entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = self.computations[header[2]] = {}
                self._entry = header[2] if header[1] else self._entry
            elif instruction := _parse(line):
                current[instruction.name] = instruction

    def runs(self) -> Iterator[Run]:
        """Every instruction that runs, once for each way that leads to it."""
        self.unknown_loops.clear()
        yield from self._runs(self._entry, 1, "", False)

    def _runs(self, computation: str, times: int, place: str, fused: bool) -> Iterator[Run]:
        for instruction in self.computations[computation].values():
            yield Run(instruction, computation, times, place, fused)
            inside = fused or instruction.opcode == "fusion"
            if instruction.opcode == "while":
                turns = self.trip_count(computation, instruction)
                (body,) = re.findall(r"\bbody=%?([\w.\-]+)", instruction.attributes)
                yield from self._runs(body, times * turns, instruction.name, fused)
            elif instruction.opcode in ("fusion", "call", "conditional", "async-start"):
                for name in instruction.called():
                    yield from self._runs(name, times, place, inside)

    def trip_count(self, computation: str, loop: Instruction) -> int:
        """Turns of a `while`; 1, and a note in `unknown_loops`, if it does not say."""
        known = _KNOWN_TRIPS.search(loop.attributes)
        count = int(known[1]) if known else self._counted(computation, loop)
        if count is None:
            self.unknown_loops.append(loop.name)
        return 1 if count is None else count

    def _counted(self, computation: str, loop: Instruction) -> int | None:
        """The number of turns of a loop `for i in range(start, n)`, as scans are: n - start."""
        (condition,) = re.findall(r"\bcondition=%?([\w.\-]+)", loop.attributes)
        instructions = self._with_fused(condition)
        compares = [i for i in instructions if i.opcode == "compare"]
        bounds = [
            i for i in instructions if i.opcode == "constant" and re.fullmatch(r"-?\d+", i.literal)
        ]
        counters = [i for i in instructions if i.opcode == "get-tuple-element"]
        if not len(compares) == len(bounds) == len(counters) == 1:
            return None
        if compares[0].attribute("direction") != "LT":
            return None
        start = self._start(computation, loop, int(_INDEX.search(counters[0].attributes)[1]))
        return int(bounds[0].literal) - start

    def _with_fused(self, computation: str) -> list[Instruction]:
        found = list(self.computations[computation].values())
        for instruction in list(found):
            for name in instruction.called():
                found += self._with_fused(name)
        return found

    def _start(self, computation: str, loop: Instruction, index: int) -> int:
        """The counter's first value: a constant in the loop's first tuple, else 0, as in scans."""
        scope = self.computations[computation]
        initial = scope.get(loop.operands[0])
        while initial is not None and initial.opcode in ("tuple", "copy"):
            position = index if initial.opcode == "tuple" else 0
            initial = scope.get(initial.operands[position])
        return int(initial.literal) if initial and initial.opcode == "constant" else 0


def _parse(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if found is None:
        return None
    root, name, result, opcode, operands, attributes = found.groups()
    shapes = tuple(
        Shape(dtype, tuple(int(side) for side in sides.split(",") if side), layout or "")
        for dtype, sides, layout in _SHAPE.findall(result)
    )
    return Instruction(
        name, opcode, shapes, tuple(_NAME.findall(operands)), attributes, operands, bool(root)
    )
