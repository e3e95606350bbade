"""What a compiled program sends between chips."""

import dataclasses
import re
from collections import defaultdict

from imagen_jax.costs.hlo import Instruction, Program, Run

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_CHAIN = re.compile(r'chain_id="(\d+)"')
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_TILES = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_LISTS = re.compile(r"replica_groups=\{\{([\d,]+)\}")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind, of one chip and one call.

    Attributes:
        count: how many run.
        bytes: of the whole arrays: what an all-gather makes, what the others take.
        wire_bytes: that a chip sends to others if it does so in rings: (n - 1) / n of an
            array among n chips, twice that for an all-reduce.
    """

    count: int
    bytes: int
    wire_bytes: float


def collectives(program: Program, chips: int) -> dict[str, Traffic]:
    """Kind -> what is sent by it; kinds that do not occur are left out.

    Args:
        chips: number of chips the program is compiled for.
    """
    total: dict[str, list] = defaultdict(lambda: [0, 0, 0.0])
    for kind, run in _distinct(program).values():
        size = _array_bytes(kind, run.instruction, chips)
        sent = size * _sent_share(kind, _group_size(run.instruction, chips))
        for index, value in enumerate((1, size, sent)):
            total[kind][index] += value * run.times
    return {kind: Traffic(*values) for kind, values in sorted(total.items())}


def _distinct(program: Program) -> dict[object, tuple[str, Run]]:
    """Every collective once: (kind, run) by where it stands.

    A TPU spreads one collective over several fusions, which all hold a copy of it with the
    same chain_id.
    """
    found = {}
    for number, run in enumerate(program.runs()):
        kind = _kind(run)
        if kind is not None:
            chain = _CHAIN.search(run.instruction.attributes)
            found[(run.place, chain[1]) if chain else number] = (kind, run)
    return found


def _kind(run: Run) -> str | None:
    """None if it is no collective, or only the end of one."""
    kind = run.instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    # So a TPU writes a reduce-scatter: an all-reduce and a slice in one computation.
    scatters = kind == "all-reduce" and run.computation.startswith("all-reduce-scatter")
    return "reduce-scatter" if scatters else kind


def _array_bytes(kind: str, instruction: Instruction, chips: int) -> int:
    """Bytes of the whole arrays, from those of the results."""
    sizes = [shape.bytes for shape in instruction.shapes]
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        # The result holds the operands too; a permutation's has two counters after them.
        sizes = sizes[1:2] if kind == "collective-permute" else sizes[len(sizes) // 2 :]
    if instruction.opcode == "reduce-scatter":
        return sum(sizes) * _group_size(instruction, chips)
    return sum(sizes)


def _sent_share(kind: str, group: int) -> float:
    if kind in ("collective-permute", "collective-broadcast"):
        return 1.0
    return (group - 1) / group * (2 if kind == "all-reduce" else 1)


def _group_size(instruction: Instruction, chips: int) -> int:
    """Chips that take part together; all of them if it does not say."""
    text = instruction.attributes
    if found := _MESH.search(text):
        sides = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        group = 1
        # 'x' is a whole axis, 'x':(2)4 the 4 of its parts that lie inside the first 2.
        for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2]):
            group *= int(part or sides[axis])
        return group
    if found := _TILES.search(text):
        return int(found[1])
    if found := _LISTS.search(text):
        return found[1].count(",") + 1
    return chips
