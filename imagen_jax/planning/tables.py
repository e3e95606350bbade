"""What compiling for a pod tells: as a dataclass, as JSON and in words."""

import dataclasses
import json
from typing import Any

from imagen_jax.costs.chips import Chip
from imagen_jax.costs.collectives import Traffic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of HBM per chip; `needed` is the sum of the parts, `aliased` taken away.

    Attributes:
        arguments: parameters, optimizer state, batch.
        outputs: results.
        aliased: results that lie in donated arguments.
        temporaries: activations, gradients and gathered parameters.
        code: the program.
        peak: the most that is in use at one time, without what lies between the arrays and what
            is held.
        held: parameters in parts, where the arguments are whole ones.
        available: what the compiler lets a program use.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    peak: int
    held: int
    available: int

    @property
    def needed(self) -> int:
        own = self.arguments + self.outputs - self.aliased + self.temporaries + self.code
        return own + self.held

    @property
    def free(self) -> int:
        return self.available - self.needed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound:
    """Seconds of a call that a chip's peak rates allow at best: a bound, not a measurement.

    Attributes:
        compute: compiled work at the bfloat16 peak; float32 work is slower.
        hbm: estimated HBM traffic at the memory's bandwidth.
        ici: collectives, sent in rings over all links of a chip. Between slices, where the
            network is far slower, it does not hold.
        utilisation: of the bfloat16 peak by the model's own work if the slowest of the three
            sets the pace and hides the others.
    """

    compute: float
    hbm: float
    ici: float
    utilisation: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.hbm, self.ici)

    @property
    def slowest(self) -> str:
        return max(("compute", "hbm", "ici"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What one compiled call takes. Work and traffic are per chip and call, loops counted fully.

    Attributes:
        times: how many such calls a batch takes.
        quick: compiled with simpler code for convolutions, which takes fewer bytes.
        parameters: of each network.
        parameter_bytes: of all of them, on all chips together.
        compiled_flops: of dots and convolutions in the compiled program.
        model_flops: a chip's share of the model's own, nothing computed twice.
        hbm_traffic: bytes, an estimate (see hlo_costs.py).
        unknown_loops: loops of unknown length in the compiled program, counted as one turn.
    """

    what: str
    times: int
    config: str
    topology: str
    num_slices: int
    quick: bool
    chips: int
    batch_size: int
    parameters: dict[str, int]
    parameter_bytes: int
    memory: Memory
    compiled_flops: int
    model_flops: float
    hbm_traffic: int
    collectives: dict[str, Traffic]
    unknown_loops: int
    bound: Bound
    trace_seconds: float
    compile_seconds: float
    versions: dict[str, str]

    @property
    def overhead(self) -> float:
        """Compiled work by model work: what is computed again, or on several chips."""
        return self.compiled_flops / self.model_flops

    @property
    def collectives_per_parameter_byte(self) -> float:
        return sum(traffic.bytes for traffic in self.collectives.values()) / self.parameter_bytes


def bound(chip: Chip, flops: int, model_flops: float, hbm_traffic: int, collectives: dict) -> Bound:
    """The roofline of one call on one chip; the arguments are as in `Report`."""
    sent = sum(traffic.wire_bytes for traffic in collectives.values())
    times = {
        "compute": flops / chip.flops,
        "hbm": hbm_traffic / chip.hbm_bandwidth,
        "ici": sent / chip.ici_bandwidth,
    }
    return Bound(**times, utilisation=model_flops / chip.flops / max(times.values()))


def to_json(reports: list[Report]) -> str:
    """A list of objects with all that is printed, in bytes, FLOPs and seconds."""

    def computed(report: Report) -> dict[str, Any]:
        fields = dataclasses.asdict(report)
        fields["memory"] |= {"needed": report.memory.needed, "free": report.memory.free}
        fields["bound"] |= {"seconds": report.bound.seconds, "slowest": report.bound.slowest}
        fields["overhead"] = report.overhead
        fields["collectives_per_parameter_byte"] = report.collectives_per_parameter_byte
        return fields

    return json.dumps([computed(report) for report in reports], indent=2) + "\n"


def to_text(report: Report) -> str:
    """The report in about fifteen lines."""
    memory, limit = report.memory, report.bound
    parameters = ", ".join(f"{name} {count:,}" for name, count in report.parameters.items())
    slices = f"{report.num_slices} x " if report.num_slices > 1 else ""
    lines = [
        f"{report.config}: {report.what}, batch {report.batch_size}, compiled for "
        f"{slices}{report.topology} ({report.chips} chips) in {report.compile_seconds:.0f} s",
        f"  parameters   {parameters}",
        f"  HBM per chip {_bytes(memory.needed)} of {_bytes(memory.available)} needed, "
        f"{_bytes(memory.free)} free; {_bytes(memory.peak)} in use at the peak",
        f"               arguments {_bytes(memory.arguments)}, results {_bytes(memory.outputs)} "
        f"({_bytes(memory.aliased)} of them in donated arguments), "
        f"temporaries {_bytes(memory.temporaries)}, code {_bytes(memory.code)}"
        + (f", parameters in parts beside {_bytes(memory.held)}" if memory.held else ""),
        f"  work         {_scaled(report.compiled_flops, 1000)}FLOP per chip as compiled; the "
        f"model's own {_scaled(report.model_flops, 1000)}FLOP, so {report.overhead:.2f} times that",
        f"  collectives  {report.collectives_per_parameter_byte:.2f} times the parameters' bytes, "
        "counted as whole arrays, pass each chip",
        *(
            f"    {kind:19s}{traffic.count:6d} x, {_bytes(traffic.bytes)}"
            for kind, traffic in report.collectives.items()
        ),
        f"  at best      {limit.seconds * 1e3:.2f} ms (compute {limit.compute * 1e3:.2f}, HBM "
        f"about {limit.hbm * 1e3:.2f}, ICI {limit.ici * 1e3:.2f}), bound by {limit.slowest}: "
        f"{limit.utilisation:.0%} of the bfloat16 peak; a bound from peak rates, not measured",
    ]
    if report.times > 1:
        seconds = report.times * limit.seconds
        lines.append(f"  the batch    {report.times} such calls, {seconds:.2f} s at best")
    if report.unknown_loops:
        lines.append(f"  {report.unknown_loops} loops of unknown length count as one turn")
    return "\n".join(lines)


def _bytes(size: int) -> str:
    return f"{_scaled(size, 1024)}iB" if abs(size) >= 1024 else f"{size:.0f} B"


def _scaled(value: int | float, base: int) -> str:
    """`value` with three digits or more and the prefix of a power of `base`: 6.92 G"""
    for prefix in ("", "K", "M", "G"):
        if abs(value) < base:
            return f"{value:.3g} {prefix}"
        value /= base
    return f"{value:.4g} T"
