"""Compiles the calls of a stage for TPUs that are not there and reports what they take."""

import time
from collections.abc import Callable, Iterable

import jax

from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.costs import hlo_costs
from imagen_jax.costs.chips import chip_of
from imagen_jax.costs.collectives import collectives
from imagen_jax.costs.hlo import Program
from imagen_jax.planning.calls import Call, DoesNotFit, compiled
from imagen_jax.planning.options import CompileOptions
from imagen_jax.planning.tables import Memory, Report, bound, to_json, to_text
from imagen_jax.planning.topology import slice_devices
from imagen_jax.storage.files import write_text

_KNOBS = (
    "More chips, more training.accumulation_steps, a smaller training.batch_size, more remat in "
    "the network, optimizer.moment_dtype bfloat16 or a larger mesh.fsdp would take less."
)

_BEGINNING = "What comes before the first step"

_QUICK = {
    "xla_jf_convolution_performance_target": 0.1,
    "xla_jf_critical_path_scheduler": False,
}
"""Convolutions take most of the time of a compilation. The first tells the TPU compiler how near to
the fastest code that it can think of theirs shall come, the second to order instructions simply."""


def compile_call(call: Call, options: CompileOptions) -> Report:
    """Compiles one call and reads the result.

    Raises:
        DoesNotFit: as said.
    """
    start = time.perf_counter()
    lowered = call.function.lower(*call.arguments)
    traced = time.perf_counter()
    program = compiled(lowered, _QUICK if options.quick else None)
    done = time.perf_counter()
    code, chip = Program(program.as_text()), chip_of(options.topology)
    flops, model_flops = hlo_costs.flops(code), call.count_flops() / call.chips
    traffic, sent = hlo_costs.hbm_bytes(code), collectives(code, call.chips)
    leaves = jax.tree.leaves(call.params)
    return Report(
        what=call.what,
        times=call.times,
        config=call.name,
        topology=options.topology,
        num_slices=options.num_slices,
        quick=options.quick,
        chips=call.chips,
        batch_size=call.batch_size,
        parameters={
            name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in call.params.items()
        },
        parameter_bytes=sum(x.size * x.dtype.itemsize for x in leaves),
        memory=_memory(program.memory_analysis(), call.held, chip.hbm_bytes),
        compiled_flops=flops,
        model_flops=model_flops,
        hbm_traffic=traffic,
        collectives=sent,
        unknown_loops=len(code.unknown_loops),
        bound=bound(chip, flops, model_flops, traffic, sent),
        trace_seconds=traced - start,
        compile_seconds=done - traced,
        versions=package_versions(),
    )


def _memory(analysis, held: int, available: int) -> Memory:
    return Memory(
        held=held,
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
        peak=analysis.peak_memory_in_bytes,
        available=available,
    )


def run(make_calls: Callable[[list], Iterable[Call]], options: CompileOptions) -> int:
    """Compiles calls up to one that does not fit, prints what they take and writes --json.

    Args:
        make_calls: devices -> calls.
        options: prepared ones.

    Returns:
        The exit code: 1 if one does not fit.

    Raises:
        UsageError: the batch or the mesh does not divide.
    """
    reports, fits, name = [], True, _BEGINNING
    try:
        for call in make_calls(slice_devices(options.topology, options.num_slices)):
            name = f"{call.name}: {call.what}"
            reports.append(compile_call(call, options))
            print(to_text(reports[-1]))
            name = _BEGINNING
    except DoesNotFit as error:
        print(f"{name} does not fit {options.topology}: {error}")
        print(_KNOBS)
        fits = False
    if options.json is not None:
        write_text(options.json, to_json(reports))
    return 0 if fits else 1
